"""What a run folder records so that --resume can tell whether settings and files may have changed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from phys4d.engine import checkpoint
from phys4d.engine.errors import UserError
from phys4d.engine.resume import digest
from phys4d.engine.run_folder.run import Run
from phys4d.stages.run_file import RunConfig

Resume = Literal["latest", "previous"]
"""How a run in its folder is continued: from the newest checkpoint, or from the one before, the newest removed."""


def open_run(config: RunConfig, *, resume: Resume | None, since: float | None = None) -> Run:
    """`Run.create` in the folder of `config`, which has been checked; rank 0 removes what `resume` goes back behind."""
    # os.path.exists: a folder that may not be looked into is for Run.create to refuse.
    finished = [stage for stage in config.stages if os.path.exists(config.output(stage))]
    run = Run.create(
        config.folder, config, resume=resume is not None, since=since, finished=finished, identities=identities(config)
    )
    if resume == "previous" and run.writes:
        try:
            left = [stage for stage in config.stages if stage not in finished]
            if not left:
                raise UserError(f"{config.folder}: every stage is finished: there is no checkpoint to go back from")
            checkpoint.drop_latest(config.folder, left[0])
        except BaseException:
            run.close()
            raise
    return run


def identities(config: RunConfig) -> dict[str, str]:
    """Digests of what the run reads, by key of the run file: each dataset's index, which holds the hashes of its
    clips, and the files of `init`."""
    tables = {name: config.table(name) for name in (*config.stages, "evaluate")}
    found = {f"{name}.data": _index(table.data) for name, table in tables.items() if table is not None}
    if config.init is not None:
        found["init"] = digest(_shown_files(config.init), config.init)
    return found


def _shown_files(folder: Path) -> Iterator[Path]:
    """All files below a folder but the hidden ones, which tools such as git change on their own."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _index(folder: Path) -> str:
    return hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
