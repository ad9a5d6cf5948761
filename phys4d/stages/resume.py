"""What a run folder records so that --resume can tell whether settings and files may have changed."""

import os
from collections.abc import Sequence
from typing import Literal

from phys4d.engine import checkpoint
from phys4d.engine.errors import UserError
from phys4d.engine.resume import digest
from phys4d.engine.run_folder.run import Run
from phys4d.stages.data import data_of, identity
from phys4d.stages.handover import shown_files
from phys4d.stages.rerun import Again, again, set_aside
from phys4d.stages.run_file import RunConfig

Resume = Literal["latest", "previous"]
"""How a run in its folder is continued: from the newest checkpoint, or from the one before, the newest removed."""


def open_run(
    config: RunConfig, *, resume: Resume | None, rerun: str | None = None, since: float | None = None,
    launch: Sequence[str] = (), patience: float = 0.0,
) -> Run:  # fmt: skip
    """`Run.create` in the folder of `config`, which has been checked.

    resume: from where the run goes on; rank 0 removes what "previous" goes back behind.
    rerun: name of a stage that begins again, with the stages behind it; their files are set aside.
    since, launch, patience: as of `Run.create`.
    """
    some = again(config, rerun) if resume is not None else Again()
    # os.path.exists: a folder that may not be looked into is for Run.create to refuse.
    finished = [stage for stage in config.stages if stage not in some and os.path.exists(config.output(stage))]
    run = Run.create(
        config.folder,
        config,
        resume=resume is not None,
        since=since,
        finished=finished,
        identities=identities(config),
        anew=some.anew,
        prepare=lambda: set_aside(config, some),
        launch=launch,
        patience=patience,
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
    found = {f"{name}.data": identity(data_of(table)) for name, table in tables.items() if table is not None}
    if config.init is not None:
        found["init"] = digest(shown_files(config.init), config.init)
    return found
