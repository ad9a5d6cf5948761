"""Evaluates a model on held-out clips: geometry read from true clips, and clips generated from their first frames."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from phys4d.bad_clips import most_bad, too_many
from phys4d.batch import Batch
from phys4d.caches.lookup import Latents
from phys4d.caches.read import LatentCache
from phys4d.clips import TRUTH, Clips, clip_size
from phys4d.engine.config import Config
from phys4d.engine.data.dataset import ClipFault
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError, printable
from phys4d.engine.progress import progress
from phys4d.evaluate.consistency.clouds import cloud_chamfer_4d
from phys4d.evaluate.metrics import geometry_metrics, moving_region, psnr_moving
from phys4d.evaluate.results import Evaluation, Figures
from phys4d.models.backbone import Precision
from phys4d.models.lora import SUPERVISED
from phys4d.models.placement import place
from phys4d.models.world import Geometry, WorldModel
from phys4d.rewards.moving_points import SPEC as REWARD
from phys4d.rewards.spec import Generated


class EvaluateConfig(Config):
    """Settings of an evaluation; all values are global. The noise of every sample depends on seed, scene and sample
    only, so that stages can be compared pairwise.

    data: dataset folder of held-out clips.
    latents: folder of the cache of `data` (`phys4d data encode`); default: the folder `cache` in it.
    scenes: number of clips to evaluate, from the first one on.
    samples: generated clips for each scene.
    shown: number of scenes in the report, from the first one on.
    failures: number of further scenes in the report, those with the lowest reward after the last stage.
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
    failures: int = Field(2, ge=0)
    batch: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)
    on_bad: Literal["stop", "skip"] = "stop"
    precision: Precision | None = None


@torch.no_grad()
def evaluate(
    model: WorldModel, config: EvaluateConfig, title: str, parallel: Parallel, scenes: Sequence[int] | None = None,
    cache: LatentCache | None = None,
) -> Evaluation | None:  # fmt: skip
    """Evaluates a model; the ranks share the batches.

    The result is on rank 0 and None elsewhere, and does not depend on the number of ranks.

    model: on any device; it is moved to that of the rank.
    config: settings.
    title: shown in the progress bar.
    parallel: ranks and device.
    scenes: if given, only these scenes, and the arrays of all of them are kept.
    cache: of the clips, from which latents and text are read.

    Raises UserError if the data does not fit the model or has too few clips, or more of them are left out than
    `bad_clips.most_bad`.
    """
    reader = reader_digest(model)
    model.backbone.precision = precision = config.precision or "fp32"
    model.use_attention("auto", parallel)
    place(model.eval(), parallel)
    clips = on_all_ranks(lambda: _clips(config, model, cache))
    asked = range(config.scenes) if scenes is None else scenes
    left_out = _left_out(clips, asked, parallel) if scenes is None and config.on_bad == "skip" else {}
    asked = [scene for scene in asked if scene not in left_out]
    kept = asked[: config.shown] if scenes is None else scenes
    batches = [list(asked[start : start + config.batch]) for start in range(0, len(asked), config.batch)]
    own: dict[int, Evaluation] = {}
    gathered_weights = parallel.gathered(model.backbone.transformer)
    with gathered_weights, progress(printable(f"evaluate {title}"), total=len(asked), unit="scenes") as bar:
        for first in range(0, len(batches), parallel.data_size):
            # A rank without a batch repeats the last one, since every rank must call the sharded modules.
            number = first + parallel.data_rank
            some = batches[min(number, len(batches) - 1)]
            parallel.passed()
            part = _measure(model, config, clips, some, [i for i, s in enumerate(some) if s in kept], parallel, reader)
            if number < len(batches):
                own[number] = part
            bar.advance(sum(len(batch) for batch in batches[first : first + parallel.data_size]))
    gathered = parallel.gather(own)
    if gathered is None:
        return None
    parts = {number: part for rank in gathered for number, part in rank.items()}
    whole = Evaluation(reader, precision, left_out)
    for number in sorted(parts):
        whole.extend(parts[number])
    return whole


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


def _measure(
    model: WorldModel, config: EvaluateConfig, clips: Clips, scenes: list[int], shown: list[int], parallel: Parallel,
    reader: str,
) -> Evaluation:  # fmt: skip
    """All metrics of one batch of scenes, and the arrays of the scenes at the positions `shown` of the batch."""
    rng_keys: list[tuple[int | str, ...]] = [(config.seed, "evaluate", scene) for scene in scenes]
    batch = on_all_ranks(lambda: clips.collate(scenes, rng_keys, parallel.device))
    part = Evaluation(reader, model.backbone.precision)
    _keep_truth(part, clips, batch, scenes, shown)
    clean = batch.encoded(model.codec)
    first = batch.first(model.codec, clean)
    geometry = model.read_geometry(clean, batch.text, batch.normal_like(clean, "probe"), first=first)
    part.add("model", geometry_metrics(geometry.depth, geometry.motion, batch.arrays))
    for i in shown:
        part.show(i, read_depth=geometry.depth, read_motion=geometry.motion)
    _generate(model, config, batch, first, clean, part, shown)
    _baselines(model, batch, geometry, part)
    return part


def _generate(
    model: WorldModel, config: EvaluateConfig, batch: Batch, first: Tensor, clean: Tensor, part: Evaluation,
    shown: list[int],
) -> None:  # fmt: skip
    numbers = []
    for s in range(config.samples):
        latents = model.generate(first, batch.text, batch.normal_like(clean, f"sample {s}"))
        probe = batch.normal_like(clean, f"sample {s} probe")
        geometry = model.read_geometry(latents, batch.text, probe, first=first)
        video = model.codec.decode(latents).clamp(-1, 1)
        numbers.append(score(video, geometry.depth, geometry.motion, batch))
        for i in shown if s == 0 else ():
            part.shown["video"].append(as_bytes(video[i]))
            part.show(i, depth=geometry.depth, motion=geometry.motion, reward=numbers[0]["reward"])
    part.add("model", {name: torch.stack([n[name] for n in numbers]).mean(0) for name in numbers[0]})


def score(video: Tensor, depth: Tensor, motion: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Metrics of a video against the truth of its scene, [B] each: reward, 4D Chamfer of whole clouds (m), PSNR (dB).

    video: [B, 3, T, H, W] in [-1, 1].
    depth: [B, T, H, W], metres, of the video.
    motion: [B, 3, T-1, H, W], of the video.
    batch: the true clips.
    """
    truth = batch.arrays
    return {
        "chamfer_4d": cloud_chamfer_4d(depth, truth["depth"], truth["depth_valid"], batch.intrinsics),
        "reward": REWARD.score(Generated(video, depth, motion), batch),
        "psnr_moving": psnr_moving(video, batch.video, moving_region(truth["instance"], truth["moving"])),
    }


def _baselines(model: WorldModel, batch: Batch, read: Geometry, part: Evaluation) -> None:
    """Rows of baselines next to the model's.

    zero_motion: zero motion everywhere. static_video: the first frame repeated, and true_video: the true clip, both
        with the geometry that this model reads from them, as for its own clips. truth: the true clip with true
        geometry.

    read: the geometry that the model reads from the true clips.
    """
    truth = batch.arrays
    figures = geometry_metrics(truth["depth"], truth["motion"], truth)
    part.add("zero_motion", {"epe": figures["epe_zero"], "epe_moving": figures["epe_zero_moving"]})
    still = batch.video[:, :, :1].expand_as(batch.video)
    clean = model.codec.encode(still)
    noise, first = batch.normal_like(clean, "static probe"), batch.first(model.codec, clean)
    seen = model.read_geometry(clean, batch.text, noise, first=first)
    part.add("static_video", score(still, seen.depth, seen.motion, batch))
    part.add("true_video", without_psnr(score(batch.video, read.depth, read.motion, batch)))
    exact = {name: figures[name] for name in ("absrel", "delta1", "epe", "epe_moving", "warp_l1")}
    part.add("truth", exact | without_psnr(score(batch.video, truth["depth"], truth["motion"], batch)))


def without_psnr(figures: Mapping[str, Tensor]) -> Figures:
    """The metrics without PSNR, which is infinite for the true video."""
    return {name: values for name, values in figures.items() if name != "psnr_moving"}


def _keep_truth(result: Evaluation, clips: Clips, batch: Batch, scenes: list[int], shown: list[int]) -> None:
    for i in shown:
        result.truth["keys"].append(np.array(clips.sample(scenes[i]).key))
        result.truth["captions"].append(np.array(clips.sample(scenes[i]).meta["caption"]))
        result.truth["video"].append(clips.sample(scenes[i]).video)
        result.truth["intrinsics"].append(batch.intrinsics[i].cpu().numpy())
        for name in ("depth", "motion", "visible", "moving"):
            result.truth[name].append(batch.arrays[name][i].cpu().numpy())


def as_bytes(video: Tensor) -> np.ndarray:
    """Converts a video [3, T, H, W] in [-1, 1] to uint8 [T, H, W, 3]."""
    return ((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()


def reader_digest(model: WorldModel) -> str:
    """Digest of the weights that read geometry, 16 hex digits of sha256: the heads, and the adapter that is active with
    them.
    """
    named = {f"heads.{name}": tensor for name, tensor in model.heads.state_dict().items()}
    for name, parameter in model.backbone.transformer.named_parameters():
        if f".{SUPERVISED}." in name:
            named[name] = parameter.detach()
    digest = hashlib.sha256()
    for name in sorted(named):
        digest.update(name.encode() + named[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
