"""Evaluates a model on held-out clips: geometry read from true clips, and clips generated from their first frames."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from phys4d.batch import Batch
from phys4d.caches.read import LatentCache
from phys4d.clips import Clips
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.evaluate.consistency.clouds import cloud_chamfer_4d
from phys4d.evaluate.metrics import geometry_metrics, moving_region, psnr_moving
from phys4d.evaluate.results import Evaluation, Figures
from phys4d.evaluate.scenes import EvaluateConfig, in_batches, prepare
from phys4d.models.lora import SUPERVISED
from phys4d.models.world import Geometry, WorldModel
from phys4d.rewards.moving_points import SPEC as REWARD
from phys4d.rewards.spec import Generated


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
    held_out = prepare(model, config, parallel, scenes, cache)
    kept = held_out.asked[: config.shown] if scenes is None else scenes

    def measure(some: list[int]) -> Evaluation:
        shown = [i for i, scene in enumerate(some) if scene in kept]
        return _measure(model, config, held_out.clips, some, shown, parallel, reader)

    parts = in_batches(model, held_out, config.batch, title, parallel, measure)
    if parts is None:
        return None
    whole = Evaluation(reader, model.backbone.precision, held_out.left_out)
    for part in parts:
        whole.extend(part)
    return whole


def _measure(
    model: WorldModel, config: EvaluateConfig, clips: Clips, scenes: list[int], shown: list[int], parallel: Parallel,
    reader: str,
) -> Evaluation:  # fmt: skip
    """All metrics of one batch of scenes, and the arrays of the scenes at the positions `shown` of the batch."""
    rng_keys: list[tuple[int | str, ...]] = [(config.seed, "evaluate", scene) for scene in scenes]
    batch = on_all_ranks(lambda: clips.collate(scenes, rng_keys, parallel.device))
    part = Evaluation(reader, model.backbone.precision)
    for scene in scenes:
        part.name(clips.sample(scene).key, clips.sample(scene).meta)
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
        latents, geometry = generated(model, batch, first, clean, s)
        video = model.codec.decode(latents).clamp(-1, 1)
        numbers.append(score(video, geometry.depth, geometry.motion, batch))
        for i in shown if s == 0 else ():
            part.shown["video"].append(as_bytes(video[i]))
            part.show(i, depth=geometry.depth, motion=geometry.motion, reward=numbers[0]["reward"])
    part.add("model", {name: torch.stack([n[name] for n in numbers]).mean(0) for name in numbers[0]})


def generated(model: WorldModel, batch: Batch, first: Tensor, clean: Tensor, sample: int) -> tuple[Tensor, Geometry]:
    """Latents of clips that begin as those of a batch, and the geometry that the model reads from them.

    first: of `Batch.first`. clean: of `Batch.encoded`. sample: number of the noise.
    """
    latents = model.generate(first, batch.text, batch.normal_like(clean, f"sample {sample}"))
    probe = batch.normal_like(clean, f"sample {sample} probe")
    return latents, model.read_geometry(latents, batch.text, probe, first=first)


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
        sample = clips.sample(scenes[i])
        result.truth["keys"].append(np.array(sample.key))
        result.truth["captions"].append(np.array(sample.meta["caption"]))
        result.truth["fps"].append(np.array(float(sample.meta["fps"])))
        result.truth["video"].append(sample.video)
        result.truth["intrinsics"].append(batch.intrinsics[i].cpu().numpy())
        still = np.broadcast_to(np.eye(4), (len(sample.video), 4, 4))  # of a clip that states no camera
        poses = np.array(sample.meta.get("camera_to_world", still), dtype=np.float32)
        result.truth["camera_to_world"].append(poses)
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
