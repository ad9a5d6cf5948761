"""The study of the policy: forms of the reward against the true error, and settings of the updates.

    phys4d demo --recipe demo-from-scratch --folder runs/scratch
    python -m phys4d.benchmarks.policy runs/scratch runs/policy [--only VARIANT] [--out results/summary.json]

starts from the fine-tuned model and the training clips of that demo, and evaluates on validation scenes (seed 5,
never the demo's test scenes). Every variant is trained from that model and differs from the recipe of its stage in the
named values only; finished variants are skipped. With --only, some of the variants are trained and no forms of the
reward compared. With --out the result is written to that file.
"""

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.benchmarks.demo import METRICS
from phys4d.benchmarks.training_runs import finish
from phys4d.evaluate.changes import paired

RECIPE = Path("demo-from-scratch")
SCENES = 100
UPDATES = 40
REPORTED = ("reward", "psnr_moving", "chamfer_4d")
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "shuffled advantages": {"shuffled_advantages": True},
    "own starts": {"shared_start": False},
    "clip 0.02": {"clip": 0.02},
    "rate 5e-4": {"optimizer.learning_rate": 5e-4},
    "rate 4e-3": {"optimizer.learning_rate": 4e-3},
    "two drawn steps": {"stochastic_steps": 2},
    "flow matching 60": {"flow_matching": 60.0},
    "no flow matching": {"flow_matching": 0.0},
    "reward objects": {"reward": "objects"},
    "reward all": {"reward": "all"},
}
GRADIENT: dict[str, Any] = {
    "steps": 4, "gradient_steps": 4, "conditions": 6, "flow_matching": 5.0,
    "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.0}, "loop": {"steps": UPDATES, "log_every": 1},
}  # fmt: skip
GRADIENTS: dict[str, dict[str, Any]] = {
    "gradient of the reward": {},
    "gradient of the last step": {"gradient_steps": 1},
    "gradient, rate 1e-3": {"optimizer.learning_rate": 1e-3},
    "gradient, no flow matching": {"flow_matching": 0.0},
}


def within_groups(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of a and b, both [groups, members], with the mean of each group subtracted."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


@torch.no_grad()
def reward_forms(model_folder: Path, data: Path, scenes: int = 24, group: int = 8) -> dict[str, dict[str, float]]:
    """Statistics of each form of the reward, over `group` generated clips of each of `scenes` scenes.

    Returns:
        form -> mean; group_std: deviation within a scene; reading_std: deviation that the noise at which geometry is
        read causes; correlation_with_error: Pearson, within scenes, with minus the mean squared error of moving pixels.
    """
    from phys4d.clips import TRUTH, Clips
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.evaluate.metrics import moving_region, psnr_moving
    from phys4d.models.folder import load
    from phys4d.models.placement import place
    from phys4d.rewards.moving_chamfer import moving_chamfer

    model = load(model_folder).model.eval()
    place(model, Parallel.alone())
    clips = Clips(data, (*TRUTH, "instance"), model.text, model.grid)
    columns: dict[str, list[Tensor]] = {}
    for scene in range(scenes):
        batch = clips.collate([scene] * group, [(0, "reward forms", scene, member) for member in range(group)])
        truth = batch.arrays
        clean = model.codec.encode(batch.video)
        latents = model.generate(clean[:, :, :1], batch.text, batch.normal_like(clean, "start"))
        video = model.codec.decode(latents).clamp(-1, 1)
        psnr = psnr_moving(video, batch.video, moving_region(truth["instance"], truth["moving"]))
        columns.setdefault("error", []).append(-4 * 10 ** (-psnr / 10))
        for reading in ("probe", "probe again"):
            geometry = model.read_geometry(latents, batch.text, batch.normal_like(latents, reading))
            for form, options in (
                ("changed", {}), ("objects", {"truth_instance": truth["instance"]}), ("all", {"points": "all"}),
            ):  # fmt: skip
                reward, _ = moving_chamfer(
                    video, geometry.depth, geometry.motion, truth_video=batch.video, truth_depth=truth["depth"],
                    truth_motion=truth["motion"], intrinsics=batch.intrinsics, **options,
                )  # fmt: skip
                columns.setdefault(f"{form} {reading}", []).append(reward)
    table = {name: torch.stack(rows) for name, rows in columns.items()}
    forms = ("changed", "objects", "all")
    return {form: _form(table[f"{form} probe"], table[f"{form} probe again"], table["error"]) for form in forms}


def _form(reward: Tensor, again: Tensor, error: Tensor) -> dict[str, float]:
    known = error.isfinite().all(1)
    return {
        "mean": float(reward.mean()),
        "group_std": float(reward.std(1).mean()),
        "reading_std": float((reward - again).std() / 2**0.5),
        "correlation_with_error": within_groups(reward[known], error[known]),
    }


def run(demo: Path, folder: Path, only: Collection[str] = ()) -> dict[str, Any]:
    """Trains and evaluates the variants that `folder` lacks, of all or of those named, and returns the result."""
    from phys4d.demo import load_recipe
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.run_folder.provenance import provenance
    from phys4d.evaluate.folders import evaluate_folder
    from phys4d.evaluate.scenes import EvaluateConfig
    from phys4d.simulation.generate import simulate
    from phys4d.stages.reward_gradient import RewardGradientConfig
    from phys4d.stages.run_file import RunConfig

    recipe = load_recipe(RECIPE, [])
    data = folder / "data"
    if not (data / "index.parquet").exists():
        chosen = recipe.simulate.test.model_copy(update={"seed": 5, "clips": SCENES})
        simulate(chosen, data, workers=recipe.workers)
    measured = EvaluateConfig(data=data, scenes=SCENES, samples=2, shown=1, ranked=0, batch=20)
    start = demo / "model-finetune"
    before = _kept(folder / "finetune.json", lambda: evaluate_folder(start, measured, Parallel.start()))
    train = demo / "data" / "train"
    reinforce = recipe.run.table("reinforce")
    gradient = RewardGradientConfig.model_validate(GRADIENT | {"data": train})
    asked = [
        (stage, base, name, changes)
        for stage, base, table in (("reinforce", reinforce, VARIANTS), ("reward_gradient", gradient, GRADIENTS))
        for name, changes in table.items()
        if not only or name in only
    ]
    variants = {}
    for stage, base, name, changes in asked:
        settings = variant(base, {"data": train, "loop.steps": UPDATES} | changes)
        place = folder / name.replace(" ", "-")
        whole = {"folder": place, "stages": (stage,), "init": start, stage: settings.model_dump(), "evaluate": measured}
        finish(RunConfig.model_validate(whole))
        after = json.loads((place / "evaluation" / f"{stage}.json").read_text())
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        seconds = sum(line["seconds"] for line in lines) * settings.loop.log_every
        variants[name] = {"stage": stage, "changes": changes, "seconds": seconds, **_changed(before, after)}
    result = {"variants": variants, "updates": UPDATES, "provenance": provenance()}
    if not only:
        result["reward_forms"] = _kept(folder / "forms.json", lambda: reward_forms(start, data))
    return result


def variant(recipe: Any, changes: Mapping[str, Any]) -> Any:
    """The stage's configuration with some values changed, keys as `table.key`; validated like a run file."""
    settings = recipe.model_dump()
    for key, value in changes.items():
        table, _, last = key.rpartition(".")
        (settings[table] if table else settings)[last] = value
    return type(recipe).model_validate(settings)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    rows = {}
    for figure in REPORTED:
        change = paired(before["scenes"][figure], after["scenes"][figure])
        assert change is not None
        rows[figure] = {"mean": change.mean, "standard_error": change.standard_error}
    return rows


def _kept(path: Path, make: Any) -> Any:
    """The JSON at `path`; where it is absent, made and written first."""
    if not path.exists():
        results.write(path, make())
    return json.loads(path.read_text())


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: the change of each metric by each variant, with machine and versions."""
    timed = all("seconds" in row for row in figures["variants"].values())
    titles = ["variant", *(["training s"] if timed else []), *(METRICS[f] for f in REPORTED)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in figures["variants"].items():
        cells = [f"{row[f]['mean']:+.4f} ± {row[f]['standard_error']:.4f}" for f in REPORTED]
        lines.append("| " + " | ".join([name, *([f"{row['seconds']:.0f}"] if timed else []), *cells]) + " |")
    return "\n".join([*lines, "", f"{results.origin(figures['provenance'])}."])


def forms_table(figures: Mapping[str, Any]) -> str:
    """Markdown: the statistics of each form of the reward."""
    titles = ("points", "mean", "deviation within a scene", "of it reading noise", "correlation with the error")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in figures["reward_forms"].items():
        lines.append(
            f"| {name} | {row['mean']:.4f} | {row['group_std']:.4f} | {row['reading_std']:.4f} "
            f"| {row['correlation_with_error']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the study and prints its tables; with --out writes its result."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.policy", description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("folder", type=Path, help="the folder of the variants")
    parser.add_argument("--only", action="append", default=[], help="name of a variant; may be given several times")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    if unknown := sorted(set(options.only) - {*VARIANTS, *GRADIENTS}):
        parser.error(f"--only {unknown[0]}: choose from {', '.join([*VARIANTS, *GRADIENTS])}")
    figures = run(options.demo, options.folder, options.only)
    print(table(figures))
    if not options.only:
        print(f"\n{forms_table(figures)}")
    if options.out is not None:
        results.write(options.out, figures)


if __name__ == "__main__":
    main()
