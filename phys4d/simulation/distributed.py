"""Several machines simulate one dataset: each rank writes shards of its own, and rank 0 makes the index of all.

The ranks meet in the folder of unfinished files alone: they need not start together, and a rank that is done ends.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from phys4d.engine import environment
from phys4d.engine.data.files.journal import kept_rows, partial_folder, ranks_that_wrote
from phys4d.engine.errors import UserError, printable
from phys4d.engine.storage import replace_text

POLL = 0.2  # seconds between two looks at the files of other ranks
BEAT = 5.0  # seconds between two signs of life of a rank
SAY = 30.0  # seconds between two lines that say which ranks are awaited
SILENCE = 600.0  # seconds without a sign of life of an awaited rank, after which rank 0 no longer waits


@dataclass(frozen=True)
class ProcessRank:
    """Rank of this process among those that share the work; it makes the clips with index % world_size == rank."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls) -> Self:
        """The rank that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) set; else rank 0 of 1.
        """
        for names in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
            if all(name in os.environ for name in names):
                here = environment.place(names)
                return cls(here.rank, here.world_size)
        return cls()


@dataclass
class _Awaited:
    """A rank that rank 0 waits for: its last sign of life, and since when it is known."""

    sign: int | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def silence(self) -> float:
        return time.monotonic() - self.since


class RankFiles:
    """The files by which ranks know of each other, in the folder of unfinished files of a dataset.

    out: dataset folder, on a file system that all ranks share.
    recipe: everything the clips depend on.
    rank: this rank among those that share the work.
    """

    def __init__(self, out: Path, recipe: str, rank: ProcessRank) -> None:
        self.out, self.recipe, self.here = out, recipe, rank
        self.folder = partial_folder(out)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the clips that ranks above 0 have written, of this session and earlier ones, without repeats.

        Raises UserError for those of another recipe.
        """
        ranks = ranks_that_wrote(self.out)
        rows = {row["key"]: row for rank in ranks for row in kept_rows(self.out, self.recipe, rank)}
        return list(rows.values())

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Context in which a thread gives signs of life of this rank, for rank 0: it touches a file."""
        if self.here.rank == 0:
            yield
            return
        sign, ended = self._sign(self.here.rank), threading.Event()
        self._end(self.here.rank).unlink(missing_ok=True)

        def beat() -> None:
            while True:
                with suppress(OSError):  # rank 0 has everything and moved the folder
                    sign.touch()
                if ended.wait(BEAT):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def end(self, notes: Any, left_out: Collection[str] = ()) -> None:
        """States that this rank has written all its clips and ended its shards; notes: for rank 0, as JSON. left_out:
        keys of the clips that it could not draw.
        """
        replace_text(self._end(self.here.rank), json.dumps({"notes": notes, "left_out": list(left_out)}))

    def wait(self, keys: Mapping[int, Collection[str]]) -> list[Any]:
        """Waits until every other rank has ended and its clips are there; what they noted, in the order of ranks. Says
        on the way which ranks are awaited.

        keys: of the clips that each other rank makes.

        Raises UserError that names a rank which gives no sign of life for ten minutes.
        """
        awaited = {rank: _Awaited() for rank in keys}
        said = -SAY
        while awaited:
            for rank in [rank for rank in awaited if self._end(rank).exists()]:
                known = {row["key"] for row in self.rows()} | set(self._noted(rank)["left_out"])
                if known >= set(keys[rank]):  # else it ended in an earlier session
                    del awaited[rank]
            for rank, other in awaited.items():
                with suppress(FileNotFoundError):
                    sign = self._sign(rank).stat().st_mtime_ns
                    if sign != other.sign:  # clocks of machines differ, so the times themselves are not compared
                        other.sign, other.since = sign, time.monotonic()
                if other.silence > SILENCE:
                    raise UserError(
                        f"{self.out}: rank {rank} gave no sign of life for {SILENCE:.0f} s: start all ranks with the "
                        "same command on the same folder, or one process without RANK and WORLD_SIZE: finished clips "
                        "are kept"
                    )
            if awaited and time.monotonic() - said >= SAY:
                said = time.monotonic()
                missing = {name for rank in awaited for name in keys[rank]} - {row["key"] for row in self.rows()}
                line = f"simulate: rank 0 waits for {self._of(awaited)}: {len(missing)} clips are missing"
                print(printable(line), file=sys.stderr, flush=True)
            if awaited:
                time.sleep(POLL)
        return [self._noted(rank)["notes"] for rank in keys]

    def _of(self, awaited: dict[int, _Awaited]) -> str:
        """Which ranks are awaited, the longest silent first."""
        longest = sorted(awaited.items(), key=lambda item: -item[1].silence)
        ranks = [
            f"rank {rank} ({'never seen' if other.sign is None else 'last seen'} {other.silence:.0f} s)"
            for rank, other in longest[:4]
        ]
        more = f" and {len(longest) - 4} more" if len(longest) > 4 else ""
        return f"{', '.join(ranks)}{more}"

    def _sign(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.alive"

    def _noted(self, rank: int) -> dict[str, Any]:
        return dict(json.loads(self._end(rank).read_bytes()))

    def _end(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.done"
