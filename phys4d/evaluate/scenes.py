"""The held-out scenes of an evaluation, and the loop over their batches, which the ranks share."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from phys4d.bad_clips import most_bad, too_many
from phys4d.caches.lookup import Latents
from phys4d.caches.read import LatentCache
from phys4d.clips import TRUTH, Clips, clip_size
from phys4d.engine.config import Config
from phys4d.engine.data.dataset import ClipFault
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError, printable
from phys4d.engine.progress import progress
from phys4d.models.backbone import Precision
from phys4d.models.placement import place
from phys4d.models.world import WorldModel

T = TypeVar("T")


class EvaluateConfig(Config):
    """Settings of an evaluation; all values are global. The noise of every sample depends on seed, scene and sample
    only, so that stages can be compared pairwise.

    data: dataset folder of held-out clips.
    latents: folder of the cache of `data` (`phys4d data encode`); default: the folder `cache` in it.
    scenes: number of clips to evaluate, from the first one on.
    samples: generated clips for each scene.
    shown: number of scenes in the report, from the first one on.
    ranked: scenes of the report with the highest, the median and the lowest reward after the last stage, so many each.
    batch: scenes evaluated together on one rank.
    seed: of the noise.
    on_bad: "stop" ends the evaluation at a clip that cannot be used; "skip" leaves such scenes out and states them.
    precision: of the transformer's matrix products, as in a run file; None: in a run that of the run, else "fp32".
    """

    data: Path
    latents: Latents = None
    scenes: int = Field(40, ge=2)
    samples: int = Field(4, ge=1)
    shown: int = Field(6, ge=1)
    ranked: int = Field(1, ge=0)
    batch: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)
    on_bad: Literal["stop", "skip"] = "stop"
    precision: Precision | None = None


@dataclass(frozen=True)
class Scenes:
    """The scenes that are evaluated.

    clips: of the dataset. asked: numbers of the scenes. left_out: those that cannot be read, with what is wrong.
    """

    clips: Clips
    asked: list[int]
    left_out: dict[int, str]


def prepare(
    model: WorldModel, config: EvaluateConfig, parallel: Parallel, scenes: Sequence[int] | None = None,
    cache: LatentCache | None = None,
) -> Scenes:  # fmt: skip
    """Places the model on its rank's device, and finds the scenes; arguments as of `run.evaluate`.

    Raises UserError if the data does not fit the model or has too few clips, or more of them are left out than
    `bad_clips.most_bad`.
    """
    model.backbone.precision = config.precision or "fp32"
    model.use_attention("auto", parallel)
    place(model.eval(), parallel)
    clips = on_all_ranks(lambda: _clips(config, model, cache))
    asked = range(config.scenes) if scenes is None else scenes
    left_out = _left_out(clips, asked, parallel) if scenes is None and config.on_bad == "skip" else {}
    return Scenes(clips, [scene for scene in asked if scene not in left_out], left_out)


def in_batches(
    model: WorldModel, scenes: Scenes, size: int, title: str, parallel: Parallel, measure: Callable[[list[int]], T]
) -> list[T] | None:
    """What `measure` returns for the batches of the scenes, in their order, on rank 0; None elsewhere.

    model: placed by `prepare`. size: scenes of a batch. title: shown in the progress bar. parallel: ranks and device.
    measure: is given the scenes of a batch; all ranks call it equally often.
    """
    asked = scenes.asked
    batches = [list(asked[start : start + size]) for start in range(0, len(asked), size)]
    own: dict[int, T] = {}
    gathered_weights = parallel.gathered(model.backbone.transformer)
    with gathered_weights, progress(printable(f"evaluate {title}"), total=len(asked), unit="scenes") as bar:
        for first in range(0, len(batches), parallel.data_size):
            # A rank without a batch repeats the last one, since every rank must call the sharded modules.
            number = first + parallel.data_rank
            parallel.passed()
            part = measure(batches[min(number, len(batches) - 1)])
            if number < len(batches):
                own[number] = part
            bar.advance(sum(len(batch) for batch in batches[first : first + parallel.data_size]))
    gathered = parallel.gather(own)
    if gathered is None:
        return None
    parts = {number: part for rank in gathered for number, part in rank.items()}
    return [parts[number] for number in sorted(parts)]


def _clips(config: EvaluateConfig, model: WorldModel, cache: LatentCache | None) -> Clips:
    clips, grid = Clips(config.data, (*TRUTH, "instance"), model.text, encoded=cache), model.grid
    if (size := clip_size(config.data)) != (grid.frames, grid.height, grid.width):
        raise UserError(
            f"{config.data}: clips of {size} (frames, height, width), this model is evaluated on clips of "
            f"{(grid.frames, grid.height, grid.width)}: simulate at that size"
        )
    if len(clips) < config.scenes:
        raise UserError(
            f"{config.data}: {len(clips)} clips, {config.scenes} are to be evaluated: "
            f"set evaluate.scenes (--scenes) to {len(clips)} or less"
        )
    return clips


def _left_out(clips: Clips, asked: Sequence[int], parallel: Parallel) -> dict[int, str]:
    """The scenes that cannot be used, each with what is wrong with it (on rank 0; elsewhere the text is empty); each
    rank reads its share of all. UserError on all ranks if they are too many.
    """
    own = asked[parallel.data_rank :: parallel.data_size]
    faults = on_all_ranks(lambda: {scene: fault.brief for scene in own if (fault := _fault(clips, scene)) is not None})
    [sums] = parallel.sums([{str(scene): float(scene in faults) for scene in asked}])
    known = {scene: text for rank in parallel.gather(faults) or () for scene, text in rank.items()}
    left_out = {scene: known.get(scene, "") for scene in asked if sums[str(scene)]}

    def check() -> None:
        if len(left_out) > most_bad(len(asked)):
            raise too_many(clips.name, len(left_out), len(asked), next(iter(left_out.values())))
        for fault in left_out.values():
            print(printable(f"left out of the evaluation: {clips.name}/{fault}"), file=sys.stderr)

    parallel.on_rank_zero(check)
    return left_out


def _fault(clips: Clips, scene: int) -> ClipFault | None:
    """What keeps a scene from being used, by reading it; None if nothing does."""
    try:
        clips.collate([scene], [(scene,)])
    except ClipFault as fault:
        return fault
    return None
