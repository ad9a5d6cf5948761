"""The model from which a run begins, where the run file names another run."""

import os
from pathlib import Path

from phys4d.engine import toml_text
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.stages import StageRecord, read_stages
from phys4d.models.card import CARD
from phys4d.stages.run_file import RunConfig, stored_values


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with the model folder in `init` where it names a run folder: that of its last finished stage,
    or the one with which this run has begun.

    Raises UserError if that run has no finished stage, or if the last one did not reach its gate.
    """
    if config.init is None or not os.path.isfile(config.init / "config.toml"):
        return config
    begun_from = Path(str(stored_values(config.folder).get("init")))
    known = begun_from.parent == config.init and os.path.isfile(begun_from / CARD)
    return config.model_copy(update={"init": begun_from if known else last_model(config.init)})


def last_model(folder: Path) -> Path:
    """The model folder of the last finished stage of a run; UserError as of `resolved`."""
    try:
        stages = toml_text.loads(toml_text.read(folder / "config.toml"))["stages"]
        models = [(str(stage), folder / f"model-{stage}") for stage in stages]
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"init: {folder / 'config.toml'}: names no stages ({reason}): name a model folder") from None
    finished = [(stage, model) for stage, model in models if os.path.isfile(model / CARD)]
    if not finished:
        raise UserError(f"init: {folder}: is a run of which no stage is finished: finish one, or name a model folder")
    stage, model = finished[-1]
    record = read_stages(folder).get(stage, StageRecord())
    missed = [metric for metric, outcome in record.gate.items() if not outcome.reached]
    if missed:
        raise UserError(
            f"init: {folder}: its last finished stage, {stage}, did not reach its gate ({', '.join(missed)}): to begin "
            f"from it nevertheless, name its model folder: {model}"
        )
    return model
