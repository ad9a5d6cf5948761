"""What could be a reward, measured: noise, ceiling, what a policy can move, agreement with the error, ways to cheat.

    phys4d demo --folder runs/demo
    python -m phys4d.benchmarks.rewards runs/demo runs/rewards [--out results/rewards.json]

takes the fine-tuned model of that demo and scenes for choosing (seed 5), generates several clips of each, and scores
them by every reward of `phys4d.rewards` and by figures of the 4D suite (`SUITE`), turned so that higher is better.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.batch import Batch
from phys4d.benchmarks import results
from phys4d.clips import TRUTH, Clips
from phys4d.demo import load_recipe
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.provenance import provenance
from phys4d.evaluate.consistency.clip import clip_figures
from phys4d.evaluate.consistency.figures import FIGURES
from phys4d.models.folder import load
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from phys4d.rewards.pixel_error import pixel_error
from phys4d.rewards.registry import REWARDS
from phys4d.rewards.spec import Generated
from phys4d.simulation.generate import simulate

SCENES, GROUP = 40, 8
SUITE = {
    "chamfer_3d_aligned": "Chamfer of each frame's whole cloud, aligned",
    "chamfer_4d_aligned": "4D Chamfer of whole clouds, aligned in frame 0",
    "chamfer_motion_moving": "motion Chamfer of tracks of movers",
    "average_jaccard_moving": "average Jaccard of tracks of movers",
    "centre_error": "distance of bodies' centres",
    "trajectory_error": "trajectories in the image",
    "mask_iou": "IoU of masks of movers",
    "fall_error": "acceleration in free fall",
    "momentum_error": "momentum in collisions",
    "penetration": "penetration",
}
SIGN = {figure.name: 1 if figure.higher_is_better else -1 for figure in FIGURES}
PERFECT = {name: 1.0 for name in SUITE if SIGN[name] > 0}  # 0 of the others
TITLES = {name: f"reward `{name}`" for name in REWARDS} | SUITE


def within_groups(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of a and b, both [groups, members], with the mean of each group subtracted."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def scores(video: Tensor, depth: Tensor, motion: Tensor, true: Batch, meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every form, [B], of clips of one scene, higher is better; NaN where there is nothing to measure.

    video: [B, 3, T, H, W] in [-1, 1]. depth: [B, T, H, W] metres, motion: [B, 3, T-1, H, W], read from it. true: the
        true clip, B times. meta: its json.
    """
    found = {name: spec.score(Generated(video, depth, motion), true) for name, spec in REWARDS.items()}
    truth = {name: array[0].numpy() for name, array in true.arrays.items()}
    rows = [
        clip_figures({"depth": one.numpy(), "motion": own.numpy()}, truth, meta).values
        for one, own in zip(depth, motion, strict=True)
    ]
    return found | {name: torch.tensor([SIGN[name] * row[name] for row in rows]) for name in SUITE}


@torch.no_grad()
def measure(model: WorldModel, data: Path, scenes: int = SCENES, group: int = GROUP) -> dict[str, dict[str, float]]:
    """Statistics of each form over `group` generated clips of each of `scenes` scenes (`statistics`).

    model: with heads; placed. data: folder of a dataset of simulated clips.
    """
    clips = Clips(data, (*TRUTH, "instance"), model.text, model.grid)
    rows: dict[str, list[dict[str, Tensor]]] = {}
    errors = []
    for scene in range(scenes):
        keys: list[tuple[int | str, ...]] = [(0, "rewards", scene, member) for member in range(group)]
        batch, meta = clips.collate([scene] * group, keys), clips.sample(scene).meta
        clean = model.codec.encode(batch.video)
        first = batch.first(model.codec, clean)
        latents = model.generate(first, batch.text, batch.normal_like(clean, "start"))
        video = model.codec.decode(latents).clamp(-1, 1)
        errors.append(-pixel_error(video, batch.video))
        for reading in ("probe", "probe again"):
            read = model.read_geometry(latents, batch.text, batch.normal_like(latents, reading), first=first)
            rows.setdefault(reading, []).append(scores(video, read.depth, read.motion, batch, meta))
        for name, shown in {"true": batch.video, **_cheats(batch.video)}.items():
            one, code = batch.take([0]), model.codec.encode(shown[:1])
            noise, begins = one.normal_like(code, "probe"), one.first(model.codec, code)
            read = model.read_geometry(code, one.text, noise, first=begins)
            rows.setdefault(name, []).append(scores(shown[:1], read.depth, read.motion, one, meta))
    judged = torch.stack(errors)
    return {
        name: statistics(
            {kind: torch.stack([row[name] for row in of_kind]) for kind, of_kind in rows.items()}, judged,
            PERFECT.get(name, 0.0),
        )
        for name in TITLES
    }  # fmt: skip


def _cheats(video: Tensor) -> dict[str, Tensor]:
    """Clips that no physics is in: the first frame repeated, and the same with its colours inverted in one frame."""
    still = video[:, :, :1].expand_as(video).clone()
    flash = still.clone()
    flash[:, :, video.shape[2] // 2] *= -1
    return {"still": still, "flash": flash}


def statistics(scored: Mapping[str, Tensor], judged: Tensor, perfect: float) -> dict[str, float]:
    """What a form is worth as a reward.

    scored: "probe" and "probe again", [scenes, clips]; "true", "still" and "flash", [scenes, 1]; scenes in which one of
        the generated clips has NaN are left out. judged: [scenes, clips], of the independent judge, higher is better.
    perfect: the value of the truth.

    Returns:
        mean: of generated clips. ceiling: of the true video, read by the same heads. movable: (ceiling - mean) /
        (perfect - mean), the share of what is lost that a policy can gain. group_std: deviation within a scene.
        reading_std: of the noise at which geometry is read. correlation: Pearson, within scenes, with the judge.
        still, flash: of clips without physics. scenes: measured.
    """
    known = torch.cat([scored[kind] for kind in ("probe", "probe again", "true")], 1).isfinite().all(1)
    found = {kind: values[known].double() for kind, values in scored.items()}
    reward, ceiling = found["probe"], float(found["true"].mean())
    mean = float(reward.mean())
    return {
        "mean": mean,
        "ceiling": ceiling,
        "movable": (ceiling - mean) / (perfect - mean),
        "group_std": float(reward.std(1).mean()),
        "reading_std": float((reward - found["probe again"]).std() / 2**0.5),
        "correlation": within_groups(reward, judged[known].double()),
        "still": float(found["still"].nanmean()),
        "flash": float(found["flash"].nanmean()),
        "scenes": int(known.sum()),
    }


def run(demo: Path, folder: Path) -> dict[str, Any]:
    """The study, with scenes in `folder`, which are simulated where they are not there."""
    recipe, data = load_recipe(None, []), folder / "data"
    if not (data / "index.parquet").exists():
        simulate(recipe.simulate.test.model_copy(update={"seed": 5, "clips": 100}), data, workers=recipe.workers)
    model = load(demo / "model-finetune").model.eval()
    with Parallel.start() as parallel:
        place(model, parallel)
        forms = measure(model, data)
    return {"forms": forms, "clips": GROUP, "provenance": provenance()}


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: the statistics of each form."""
    columns = {
        "mean": "mean", "ceiling": "true video", "movable": "movable", "group_std": "within a scene",
        "reading_std": "of it reading", "correlation": "correlation", "still": "still", "flash": "one flash",
        "scenes": "scenes",
    }  # fmt: skip
    lines = ["| form | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in figures["forms"].items():
        cells = [_cell(key, row[key]) for key in columns]
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{results.origin(figures['provenance'])}."])


def _cell(key: str, value: float) -> str:
    form = {"movable": ".0%", "correlation": ".2f", "scenes": "d"}.get(key, ".4f")
    return format(value, form) if np.isfinite(value) else "none"


def main() -> None:
    """Runs the study and prints its table; with --out writes its result."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.rewards", description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("folder", type=Path, help="the folder of the scenes")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    figures = run(options.demo, options.folder)
    print(table(figures))
    if options.out is not None:
        results.write(options.out, figures)


if __name__ == "__main__":
    main()
