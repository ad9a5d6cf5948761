"""The dry run of a run file: all its stages on so many GPUs."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phys4d.dry_run.knobs import knobs
from phys4d.dry_run.model import source_of
from phys4d.dry_run.prediction import MARGIN, predict
from phys4d.dry_run.tables import assumptions, report
from phys4d.engine.config import load_toml
from phys4d.engine.costs.gpus import GPUS
from phys4d.engine.distributed.mesh import FSDP
from phys4d.engine.errors import UserError
from phys4d.engine.output import write_file
from phys4d.engine.run_folder.provenance import provenance
from phys4d.stages.data import largest
from phys4d.stages.preflight import check_divided
from phys4d.stages.run_file import RunConfig


@dataclass(frozen=True)
class Asked:
    """What a dry run is asked for.

    world_size: number of GPUs. gpu: a name in `GPUS`. clip: "FRAMESxHEIGHTxWIDTH", None for that of the data.
    model: the name of a published model in place of the folder `init`. json: a file for all figures.
    """

    world_size: int
    gpu: str = "h100"
    clip: str | None = None
    model: str | None = None
    json: Path | None = None


def parsed_clip(text: str) -> tuple[int, int, int]:
    """(frames, height, width) of "49x480x832"; UserError for other text."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if found is None:
        raise UserError(f"--clip {text}: expected frames, height and width, such as 49x480x832")
    frames, height, width = map(int, found.groups())
    return frames, height, width


def dry_run(path: Path, overrides: Sequence[str], asked: Asked) -> dict[str, Any]:
    """Predicts every stage of the run file at `path`, prints it, and returns what `json` gets. UserError where the run
    file, its mesh or the model do not allow it."""
    config = load_toml(path, RunConfig, overrides)
    for stage in config.stages:
        if config.table(stage) is None:
            raise UserError(f"{stage}: missing: stages names {stage!r}, so the run file needs a table [{stage}]")
    if config.parallel.strategy != FSDP:
        raise UserError(f'parallel.strategy: "{config.parallel.strategy}": a dry run counts "{FSDP}" alone: set that')
    check_divided(config, asked.world_size)
    gpu, source = GPUS[asked.gpu], source_of(config, asked.model)
    size = parsed_clip(asked.clip) if asked.clip else largest(config.table(config.stages[0]).data)
    stages, ways = [], []
    for stage in config.stages:
        prediction = predict(config, stage, source, size, asked.world_size, gpu)
        stages.append(prediction.table())
        if not prediction.fits:
            found = knobs(config, stage, source, size, asked.world_size, gpu)
            ways += [{"settings": knob.settings, **knob.prediction.table()} for knob in found]
    result = {
        "run": path.name,
        "world_size": asked.world_size,
        "gpu": gpu.title,
        "clip": "x".join(map(str, size)),
        "mesh": stages[0]["mesh"],
        "margin": MARGIN,
        "stages": stages,
        "knobs": ways,
        "provenance": provenance(),
    }
    print(f"{report(result)}\n\n{assumptions(result)}")
    if asked.json is not None:
        write_file(asked.json, f"{json.dumps(result, indent=1)}\n".encode())
    return result
