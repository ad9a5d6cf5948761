"""Several machines simulate one dataset: each rank makes its own clips and passes them to rank 0 as files."""

import hashlib
import io
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from phys4d.engine import environment
from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder

POLL = 0.2  # seconds between two checks for a clip of another rank
BEAT = 5.0  # seconds between two signs of life of a rank
SILENCE = 600.0  # seconds without one, after which rank 0 no longer waits


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

    def owner(self, index: int) -> int:
        """The rank that makes clip number `index`."""
        return index % self.world_size

    def owns(self, index: int) -> bool:
        """Whether this rank makes clip number `index`."""
        return self.owner(index) == self.rank


class ClipExchange:
    """A hidden folder through which other ranks pass finished clips to rank 0.

    out: dataset folder.
    recipe: everything the clips depend on; the folder's name contains its hash.
    """

    def __init__(self, out: Path, recipe: str) -> None:
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
        self.folder = OutputFolder.of(out).hidden(digest)

    def contains(self, key: str) -> bool:
        """Whether the clip with this key is in the folder."""
        return (self.folder / f"{key}.tar").exists()

    def put(self, key: str, members: dict[str, bytes]) -> None:
        """Writes a clip atomically: another rank sees all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{key}.{os.getpid()}"
        with tarfile.open(unfinished, "w") as file:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        os.rename(unfinished, self.folder / f"{key}.tar")

    @contextmanager
    def alive(self, rank: int) -> Iterator[None]:
        """Context in which a thread gives signs of life of this rank: it touches a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ended = threading.Event()

        def beat() -> None:
            while True:
                with suppress(OSError):  # rank 0 has everything and removed the folder
                    self._sign(rank).touch()
                if ended.wait(BEAT):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _sign(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.alive"

    def wait_for(self, key: str, rank: int) -> dict[str, bytes]:
        """Waits until the clip exists and returns its members; the file stays until `remove`.

        Raises UserError if `rank`, which makes it, gives no sign of life for ten minutes.
        """
        last, since = None, time.monotonic()
        while not self.contains(key):
            sign = self._sign(rank).stat().st_mtime_ns if self._sign(rank).exists() else None
            if sign != last:  # clocks of machines differ, so the times themselves are not compared
                last, since = sign, time.monotonic()
            if time.monotonic() - since > SILENCE:
                raise UserError(
                    f"clip {key}: rank {rank}, which makes it, gave no sign of life for {SILENCE:.0f} s: start all "
                    "ranks with the same command on the same folder, or one process without RANK and WORLD_SIZE: "
                    "finished clips are kept"
                )
            time.sleep(POLL)
        with tarfile.open(self.folder / f"{key}.tar") as file:
            return dict(_members(file))

    def remove(self, key: str) -> None:
        """Removes a clip that rank 0 has written to the dataset."""
        (self.folder / f"{key}.tar").unlink()

    def close(self) -> None:
        """Removes the folder when the dataset is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _members(file: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for entry in file:
        data = file.extractfile(entry)
        assert data is not None
        yield entry.name, data.read()
