"""Measures a model on held-out clips: geometry read off true clips, and clips generated from their first frames."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from phys4d.clips import TRUTH, Batch, Clips
from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress
from phys4d.engine.telemetry import replace_text
from phys4d.evaluate.metrics import ClipMean, cloud_chamfer_4d, geometry_metrics, moving_region, psnr_moving
from phys4d.models import folder as model_folder
from phys4d.models.world import WorldModel
from phys4d.rewards.moving_chamfer import moving_chamfer


class EvaluateConfig(Config):
    """`scenes` held-out clips of `data`, `samples` generated clips each; the first `shown` scenes go into the report,
    and the `failures` ones with the lowest reward after the last stage.

    The noise of every sample depends on seed, scene and sample only, so that stages are compared pairwise.
    """

    data: Path
    scenes: int = Field(40, ge=2)
    samples: int = Field(4, ge=1)
    shown: int = Field(6, ge=1)
    failures: int = Field(2, ge=0)
    batch: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)


class Evaluation:
    """Figures of the model and of the baselines, every scene's own figures, and arrays of the first scenes."""

    def __init__(self) -> None:
        self.means: dict[str, ClipMean] = defaultdict(ClipMean)
        self.scenes: dict[str, list[float | None]] = defaultdict(list)
        self.shown: dict[str, list[np.ndarray]] = defaultdict(list)
        self.truth: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, who: str, figures: Mapping[str, Tensor]) -> None:
        """Appends a batch: one [B] tensor per figure; NaN where a scene has nothing to measure."""
        self.means[who].add(figures)
        if who == "model":
            for name, values in figures.items():
                self.scenes[name] += [None if math.isnan(v) else v for v in values.double().tolist()]

    def table(self) -> dict[str, Any]:
        """What is written as JSON: means over scenes with `<name>_se`, the baselines, and every scene's figures."""
        rows = {who: _with_errors(mean) for who, mean in self.means.items()}
        return {"means": rows.pop("model"), "baselines": rows, "scenes": self.scenes}


def _with_errors(mean: ClipMean) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, estimate in mean.summary().items():
        row |= {name: estimate.mean, f"{name}_se": estimate.standard_error}
    return row


@torch.no_grad()
def evaluate(model: WorldModel, config: EvaluateConfig, title: str, scenes: Sequence[int] | None = None) -> Evaluation:
    """Runs all measurements, on these scenes alone where given, and then keeps the arrays of all of them.

    UserError where the data does not fit the model or holds too few clips.
    """
    model.eval()
    clips = Clips(config.data, (*TRUTH, "instance"), model.text, model.grid)
    if len(clips) < config.scenes:
        raise UserError(f"{config.data}: {len(clips)} clips: evaluate.scenes asks for {config.scenes}")
    asked = range(config.scenes) if scenes is None else scenes
    kept = range(config.shown) if scenes is None else scenes
    result = Evaluation()
    with progress(f"evaluate {title}", total=len(asked), unit="scenes") as bar:
        for start in range(0, len(asked), config.batch):
            some = list(asked[start : start + config.batch])
            batch = clips.collate(some, [(config.seed, "evaluate", i) for i in some])
            shown = [i for i, scene in enumerate(some) if scene in kept]
            _keep_truth(result, clips, batch, some, shown)
            _read(model, batch, result, shown)
            _generate(model, config, batch, result, shown)
            _baselines(batch, result)
            bar.advance(len(some))
    return result


def _read(model: WorldModel, batch: Batch, result: Evaluation, shown: list[int]) -> None:
    clean = model.codec.encode(batch.video)
    geometry = model.read_geometry(clean, batch.text, batch.normal_like(clean, "probe"))
    result.add("model", geometry_metrics(geometry.depth, geometry.motion, batch.arrays))
    for i in shown:
        result.shown["read_depth"].append(geometry.depth[i].numpy())
        result.shown["read_motion"].append(geometry.motion[i].numpy())


def _generate(model: WorldModel, config: EvaluateConfig, batch: Batch, result: Evaluation, shown: list[int]) -> None:
    clean = model.codec.encode(batch.video)
    numbers = []
    for s in range(config.samples):
        latents = model.generate(clean[:, :, :1], batch.text, batch.normal_like(clean, f"sample {s}"))
        geometry = model.read_geometry(latents, batch.text, batch.normal_like(clean, f"sample {s} probe"))
        video = model.codec.decode(latents).clamp(-1, 1)
        numbers.append(score(video, geometry.depth, geometry.motion, batch))
        if s == 0:
            for i in shown:
                result.shown["video"].append(as_bytes(video[i]))
                result.shown["depth"].append(geometry.depth[i].numpy())
                result.shown["motion"].append(geometry.motion[i].numpy())
                result.shown["reward"].append(numbers[0]["reward"][i].numpy())
    result.add("model", {name: torch.stack([n[name] for n in numbers]).mean(0) for name in numbers[0]})


def score(video: Tensor, depth: Tensor, motion: Tensor, batch: Batch) -> dict[str, Tensor]:
    """A video's figures against the truth of its scene, [B] each: reward, full-cloud 4D Chamfer (m), PSNR (dB)."""
    truth = batch.arrays
    reward, _ = moving_chamfer(
        video,
        depth,
        motion,
        truth_video=batch.video,
        truth_depth=truth["depth"],
        truth_motion=truth["motion"],
        intrinsics=batch.intrinsics,
    )
    return {
        "chamfer_4d": cloud_chamfer_4d(depth, truth["depth"], truth["depth_valid"], batch.intrinsics),
        "reward": reward,
        "psnr_moving": psnr_moving(video, batch.video, moving_region(truth["instance"], truth["moving"])),
    }


def _baselines(batch: Batch, result: Evaluation) -> None:
    truth = batch.arrays
    figures = geometry_metrics(truth["depth"], truth["motion"], truth)
    result.add("zero_motion", {"epe": figures["epe_zero"], "epe_moving": figures["epe_zero_moving"]})
    frozen = batch.video[:, :, :1].expand_as(batch.video)
    still_depth, no_motion = truth["depth"][:, :1].expand_as(truth["depth"]), torch.zeros_like(truth["motion"])
    result.add("static_video", score(frozen, still_depth, no_motion, batch))
    perfect = score(batch.video, truth["depth"], truth["motion"], batch)
    read = {name: figures[name] for name in ("absrel", "delta1", "epe", "epe_moving", "warp_l1")}
    result.add("truth_video", read | {name: perfect[name] for name in ("chamfer_4d", "reward")})


def _keep_truth(result: Evaluation, clips: Clips, batch: Batch, scenes: list[int], shown: list[int]) -> None:
    for i in shown:
        result.truth["keys"].append(np.array(clips.sample(scenes[i]).key))
        result.truth["captions"].append(np.array(clips.sample(scenes[i]).meta["caption"]))
        result.truth["video"].append(clips.sample(scenes[i]).video)
        result.truth["intrinsics"].append(batch.intrinsics[i].numpy())
        for name in ("depth", "motion", "visible", "moving"):
            result.truth[name].append(batch.arrays[name][i].numpy())


def as_bytes(video: Tensor) -> np.ndarray:
    """[3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3]."""
    return ((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def evaluate_folder(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    """The table of the model in a folder."""
    loaded = model_folder.load(folder)
    return evaluate(loaded.model, config, loaded.stage).table()


def evaluate_stage(folder: Path, config: EvaluateConfig, out: Path, stage: str) -> None:
    """Measures a stage's model and writes truth.npz, <stage>.npz and <stage>.json; does nothing where they are
    there."""
    if (out / f"{stage}.json").exists():
        return
    result = evaluate(model_folder.load(folder).model, config, stage)
    _write_arrays(result, out, stage)
    replace_text(out / f"{stage}.json", json.dumps(result.table(), indent=1) + "\n")


def evaluate_failures(folders: Mapping[str, Path], config: EvaluateConfig, out: Path) -> None:
    """Keeps the arrays of the scenes that failed worst, of every stage, in out/failures/.

    folders: each stage's model folder, in the order of training; the mean reward of the last one's clips, in
    out/<stage>.json, decides. The same noise gives the same clips again.
    """
    rewards = json.loads((out / f"{list(folders)[-1]}.json").read_text())["scenes"]["reward"]
    measured = [scene for scene, reward in enumerate(rewards) if reward is not None]
    worst = sorted(measured, key=lambda scene: rewards[scene])[: config.failures]
    if not worst:
        return
    for stage, folder in folders.items():
        _write_arrays(evaluate(model_folder.load(folder).model, config, stage, worst), out / "failures", stage)


def _write_arrays(result: Evaluation, out: Path, stage: str) -> None:
    out.mkdir(exist_ok=True)
    for name, kept in (("truth", result.truth), (stage, result.shown)):
        arrays: dict[str, Any] = {key: np.stack(values) for key, values in kept.items()}
        np.savez_compressed(out / f"{name}.npz", **arrays)
