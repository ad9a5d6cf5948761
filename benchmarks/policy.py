"""The study of the policy: settings of its updates, each trained from one fine-tuned model.

    phys4d demo --recipe demo-from-scratch --folder runs/scratch
    python -m phys4d.benchmarks.policy runs/scratch runs/policy [--only VARIANT] [--out results/summary.json]

starts from the fine-tuned model and the training clips of that demo, and evaluates on validation scenes (seed 5,
never the demo's test scenes). Every variant is trained from that model and differs from the recipe of its stage in the
named values only; finished variants are skipped. With --only, some of the variants are trained. With --out the result
is written to that file.
"""

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

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
    return {"variants": variants, "updates": UPDATES, "provenance": provenance()}


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
    if options.out is not None:
        results.write(options.out, figures)


if __name__ == "__main__":
    main()
