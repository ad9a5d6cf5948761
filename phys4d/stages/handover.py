"""The hand-over between stages: digests of models, which show that none was replaced or edited on the way."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from phys4d.engine import checkpoint, integrity
from phys4d.engine.errors import UserError
from phys4d.engine.resume import digest
from phys4d.engine.run_folder.run import Run
from phys4d.models.card import CARD, base_of, read_card
from phys4d.stages.run_file import RunConfig

NEW = ""  # instead of a digest: no model, the stage starts from a new one


def model_digest(folder: Path) -> str:
    """SHA-256 that identifies a model: the manifests of its folder and of the folder that holds its backbone.

    Where and when the model was written does not count, so a model written again from the same checkpoint has the same
    digest. A published model's folder has no manifest: names, sizes and the ends of its files count
    (`engine.resume.digest`). Raises UserError if the card or a manifest is damaged.
    """
    if not (folder / CARD).is_file():
        return digest(shown_files(folder), folder)
    card = read_card(folder)
    base = base_of(card, folder)
    parts = [card.model_dump_json(exclude={"provenance", "base"}), _weights(folder)]
    if base != folder:
        parts.append(_weights(base) if (base / CARD).is_file() else digest(shown_files(base), base))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _weights(folder: Path) -> str:
    """The manifest of a model folder without its card, as text."""
    files = integrity.read_manifest(folder, "copy it again, or remove the folder and --resume its run")
    return json.dumps({name: entry.sha256 for name, entry in sorted(files.items()) if name != CARD})


def shown_files(folder: Path) -> Iterator[Path]:
    """All files below a folder but the hidden ones, which tools such as git change on their own."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def begun(config: RunConfig, stage: str) -> bool:
    """Whether the run folder holds a checkpoint or the model of a stage."""
    return os.path.exists(config.output(stage)) or checkpoint.latest(config.folder, stage) is not None


def compare(run: Run, config: RunConfig, stage: str, given: Path | None) -> None:
    """Records the model that a stage starts from, or compares it with that of its start; and compares the model that
    the stage wrote, if it is there. Rank 0 alone does so.

    run, config, stage: the run and its stage.
    given: model folder, None for a new model.

    Raises UserError that names the model that was replaced or edited.
    """
    if not run.writes:
        return
    record, output = run.stage(stage), config.output(stage)
    start = NEW if given is None else model_digest(given)
    if not begun(config, stage):
        record = record.model_copy(update={"start": start, "model": None, "gate": {}})
    elif record.start is None:  # a folder that the run did not make, or a damaged record
        record = record if output.exists() else record.model_copy(update={"start": start})
    elif record.start != start:
        raise UserError(
            f"{given or 'a new model'}: is not the model that {stage} started from, which was replaced or edited: "
            f"put that model back, or --resume --rerun {stage}"
        )
    if output.exists():
        found = model_digest(output)
        if record.model not in (None, found):
            raise UserError(
                f"{output}: is not the model that {stage} wrote, it was replaced or edited: put that model back, or "
                f"--resume --rerun {stage}"
            )
        record = record.model_copy(update={"model": found})
    if record != run.stage(stage):
        run.record_stage(stage, record)


def finish(run: Run, config: RunConfig, stage: str) -> None:
    """Records the model that a stage has written, on rank 0."""
    if run.writes:
        found = model_digest(config.output(stage))
        run.record_stage(stage, run.stage(stage).model_copy(update={"model": found}))
