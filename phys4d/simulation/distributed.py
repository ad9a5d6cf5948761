"""Several machines simulate one dataset: each rank makes its own clips and passes them to rank 0 as files."""

import hashlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from phys4d.engine.output import OutputFolder

POLL = 0.2  # seconds between two checks for a clip of another rank


@dataclass(frozen=True)
class ProcessRank:
    """Rank of this process among those that share the work; it makes the clips with index % world_size == rank."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls) -> Self:
        """The rank that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) set; else rank 0 of 1.
        """
        for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
            if rank in os.environ and size in os.environ:
                return cls(int(os.environ[rank]), int(os.environ[size]))
        return cls()

    def owns(self, index: int) -> bool:
        """Whether this rank makes clip number `index`."""
        return index % self.world_size == self.rank


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

    def wait_for(self, key: str) -> dict[str, bytes]:
        """Waits until the clip exists and returns its members; the file stays until `remove`."""
        while not self.contains(key):
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
