"""Which launch of torchrun a run belongs to, so that the processes which it starts again go on with the run.

A launch is known by torchrun's agents, the parents of its processes: if one of those that recorded themselves in the
run folder is the parent of a process of this start, too, then torchrun has started the processes again. Its count of
restarts (TORCHELASTIC_RESTART_COUNT) does not serve: it stays 0 on machines whose own processes did not fail, and it
rises after a start that refused the run folder.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from phys4d.engine import json_text
from phys4d.engine.distributed.parallel import Parallel

AGENTS = "torchrun_agents"  # in provenance.json


def agents(parallel: Parallel) -> list[str]:
    """The agents of torchrun that started the processes, on rank 0; none elsewhere, and without torchrun."""
    found = parallel.gather(_agent())
    return sorted({agent for agent in found or [] if agent})


def started_again(folder: Path, launch: Sequence[str], parallel: Parallel) -> bool:
    """Whether the run in `folder` was last opened by processes of the same launch; a collective, equal on all ranks.

    folder: run folder.
    launch: what `agents` returned.
    parallel: the ranks of this start.
    """
    return parallel.any(bool(launch) and not _recorded(folder).isdisjoint(launch))


def _agent() -> str:
    """A digest of the parent of this process: machine, process and start time; "" without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]  # in ticks since the boot
    return hashlib.sha256(f"{boot}/{parent}/{started}".encode()).hexdigest()[:16]


def _recorded(folder: Path) -> set[str]:
    """The agents in the provenance.json of a run folder; none where it has no such file, or a damaged one."""
    try:
        stored = json_text.loads(json_text.read(folder / "provenance.json"))
        return {agent for agent in stored[AGENTS] if isinstance(agent, str)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
