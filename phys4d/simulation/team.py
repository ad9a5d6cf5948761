"""Several machines simulate one dataset: each makes its own clips and hands them to the first one, in files."""

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

from phys4d.engine.output import Place

POLL = 0.2  # seconds between looks for a clip that another machine makes


@dataclass(frozen=True)
class Team:
    """This process's place among those that share the work: it makes the clips whose index leaves its rank."""

    rank: int = 0
    size: int = 1

    @classmethod
    def started(cls) -> Self:
        """What torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) started; otherwise alone."""
        for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
            if rank in os.environ and size in os.environ:
                return cls(int(os.environ[rank]), int(os.environ[size]))
        return cls()

    def makes(self, index: int) -> bool:
        """Whether this clip is its own."""
        return index % self.size == self.rank


class Handover:
    """The hidden folder in which clips wait for the first machine; its name depends on the recipe."""

    def __init__(self, out: Path, recipe: str) -> None:
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
        self.folder = Place.of(out).hidden(digest)

    def has(self, key: str) -> bool:
        """Whether this clip is waiting."""
        return (self.folder / f"{key}.tar").exists()

    def give(self, key: str, members: dict[str, bytes]) -> None:
        """Hands a clip over, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{key}.{os.getpid()}"
        with tarfile.open(unfinished, "w") as file:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        os.rename(unfinished, self.folder / f"{key}.tar")

    def take(self, key: str) -> dict[str, bytes]:
        """Waits for a clip and takes it; it stays in its file until `done`."""
        while not self.has(key):
            time.sleep(POLL)
        with tarfile.open(self.folder / f"{key}.tar") as file:
            return dict(_members(file))

    def done(self, key: str) -> None:
        """The clip is safe elsewhere."""
        (self.folder / f"{key}.tar").unlink()

    def close(self) -> None:
        """The dataset is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _members(file: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for entry in file:
        data = file.extractfile(entry)
        assert data is not None
        yield entry.name, data.read()
