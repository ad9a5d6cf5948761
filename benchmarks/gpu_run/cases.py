"""One case of a slice, in the process of `worker`: measured, checked, or refused with the reason."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from phys4d.benchmarks import attention, blocks, elementwise, expected, geometry
from phys4d.benchmarks.comparison import DeviceLost, Effort, finish_or_lose
from phys4d.benchmarks.gpu_run import checks, plan, step
from phys4d.benchmarks.gpu_run.record import Record
from phys4d.benchmarks.gpu_run.tiny import tiny
from phys4d.benchmarks.timing import fresh
from phys4d.engine.run_folder.provenance import provenance

KINDS: dict[str, Any] = {"attention": attention, "elementwise": elementwise, "geometry": geometry, "blocks": blocks}
REHEARSAL = Effort(rounds=1, seconds=0.0, warm_up=0)
Outcome = tuple[str, dict[str, Any]]  # the state of the case, and its rows or the reason


def about(name: str, device: torch.device, stand_in: bool, revision: str | None) -> dict[str, Any]:
    """What the file of a slice says of all its cases; revision: of the source, where it is no checkout."""
    made = provenance()
    if revision is not None:
        made["git_revision"] = revision
    dtype = str(getattr(KINDS.get(name), "DTYPE", torch.bfloat16)).removeprefix("torch.")
    return {
        "slice": name, "kind": name, "device": device.type, "dtype": dtype, "stand_in": stand_in, "provenance": made,
    }  # fmt: skip


def run(
    name: str, item: plan.Item, device: torch.device, out: Path, without: Mapping[str, str],
    watch: Callable[[str], None], stand_in: bool,
) -> Outcome:  # fmt: skip
    """The outcome of a case; an exception of the case itself is its reason.

    Raises:
        DeviceLost: the device accepts no more work from this process.
    """
    try:
        if name in KINDS:
            effort = REHEARSAL if stand_in else plan.EFFORT
            effort = dataclasses.replace(effort, without=without, watch=watch)
            found = _measured(name, item.name, device, effort, stand_in)
        elif name == "check":
            found = "done", {"rows": checks.of_case(item.name, device)}
        elif name == "step":
            found = step.of_case(item.name, device, stand_in)
        else:
            found = _tuned(out, device, stand_in)
    except DeviceLost:
        raise
    except Exception as fault:
        found = "lost", {"reason": f"{type(fault).__name__}: {' '.join(str(fault).split())[:500]}"}
        finish_or_lose(device, item.name)
    fresh(device)
    return found


def _measured(kind: str, name: str, device: torch.device, effort: Effort, stand_in: bool) -> Outcome:
    module = KINDS[kind]
    (case,) = module.cases([name], torch.device("cuda"))  # without a GPU these modules would give smaller ones
    case = tiny(case) if stand_in else case
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    rows = expected.annotated(kind, module.measure(case, device, effort), gpu)
    return "done", {"rows": rows}


def _tuned(out: Path, device: torch.device, stand_in: bool) -> Outcome:
    """The table from which `attention` chooses on this GPU, from the rows of the slice `attention`."""
    record = Record.read(out / "attention.json")
    missing = [case.name for case in attention.ATTENTION if record.cases.get(case.name, {}).get("state") != "done"]
    if missing:
        return "waiting", {"reason": f"the slice attention has no rows of {', '.join(missing)}"}
    gpu = "stand-in" if stand_in else torch.cuda.get_device_name(device)
    table = attention.tuned(record.rows(), gpu, record.about["provenance"]["date"][:10])
    return "done", {"rows": [], "table": table}
