"""The study of the heads: what they read and how they are built and trained, at equal processor time.

    phys4d demo --folder runs/demo
    python -m phys4d.benchmarks.heads runs/demo runs/heads [--only VARIANT] [--out results/heads.json]

trains heads alone, on the frozen small model that comes with the package and the demo's training clips with their exact
truth, and measures them on scenes for choosing (seed 5, never the demo's test scenes). Every variant differs from the
demo's heads in the named values only, and trains for as many steps as take `SECONDS` of one core, as a few steps of its
own show; finished variants are skipped. With --out the result is written to that file.
"""

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from phys4d.benchmarks import results
from phys4d.benchmarks.training_runs import finish
from phys4d.demo import load_recipe
from phys4d.engine.run_folder.provenance import provenance
from phys4d.evaluate.scenes import EvaluateConfig
from phys4d.simulation.generate import simulate
from phys4d.stages.run_file import RunConfig

SECONDS = 180
SCENES = 100
MODEL: dict[str, Any] = {"kind": "small", "taps": (1, 3, 5)}
STAGE: dict[str, Any] = {"batch": 8, "optimizer": {"learning_rate": 2e-3, "decay_fraction": 0.6}}
# variant -> changed keys of the model, of the stage, and how many times SECONDS it trains
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "recipe": ({}, {}, 1),
    "twice the time": ({}, {}, 2),
    "four times the time": ({}, {}, 4),
    "linear": ({"heads": {"kind": "linear"}}, {}, 1),
    "dpt": ({"heads": {"kind": "dpt"}}, {}, 1),
    "width 24": ({"heads": {"width": 24}}, {}, 1),
    "width 96": ({"heads": {"width": 96}}, {}, 1),
    "last tap": ({"taps": (5,)}, {}, 1),
    "all taps": ({"taps": (0, 1, 2, 3, 4, 5)}, {}, 1),
    "read at 0.02": ({"probe_sigma": 0.02}, {}, 1),
    "read at 0.2": ({"probe_sigma": 0.2}, {}, 1),
    "movers weigh as the rest": ({}, {"weights": {"moving_depth": 0.0, "moving_motion": 0.0}}, 1),
    "no margin around movers": ({}, {"weights": {"margin": 0}}, 1),
    "rate 5e-3": ({}, {"optimizer": {"learning_rate": 5e-3, "decay_fraction": 0.6}}, 1),
    "batch 16": ({}, {"batch": 16}, 1),
}
REPORTED = {
    "absrel": "AbsRel", "absrel_aligned": "AbsRel, scale of each clip aligned", "absrel_moving": "AbsRel moving",
    "epe_moving": "EPE moving px", "warp_l1_moving": "warp L1 moving m",
}  # fmt: skip


SHORT, LONG = 2, 10
"""Steps of the two runs whose difference is the time of a step."""


def settings(data: Path, folder: Path, variant: str, steps: int) -> dict[str, Any]:
    """The content of a run file that trains heads alone for `steps`, without an evaluation."""
    model, stage, _ = VARIANTS[variant]
    pretrain = {**STAGE, **stage, "data": data, "loop": {"steps": steps, "log_every": 10, "checkpoint_every": 0}}
    return {
        "folder": folder, "stages": ("pretrain",), "init": Path("phys4d:small"), "model": {**MODEL, **model},
        "pretrain": pretrain, "evaluate": None,
    }  # fmt: skip


def step_seconds(data: Path, variant: str) -> float:
    """Processor seconds of a training step of this process, all of its threads: of two runs that differ in length."""
    taken = []
    for steps in (SHORT, LONG):
        with TemporaryDirectory() as folder:
            config = RunConfig.model_validate(settings(data, Path(folder) / "run", variant, steps))
            started = process_time()
            finish(config)
            taken.append(process_time() - started)
    return (taken[1] - taken[0]) / (LONG - SHORT)


def run(demo: Path, folder: Path, only: Collection[str] = ()) -> dict[str, Any]:
    """Trains and evaluates the variants that `folder` lacks, of all or of those named, and returns the result."""
    recipe = load_recipe(None, [])
    data = folder / "data"
    if not (data / "index.parquet").exists():
        simulate(recipe.simulate.test.model_copy(update={"seed": 5, "clips": SCENES}), data, workers=recipe.workers)
    measured = EvaluateConfig(data=data, scenes=SCENES, samples=1, shown=1, ranked=0, batch=20)
    train, variants = demo / "data" / "train", {}
    for name in only or VARIANTS:
        place = folder / name.replace(" ", "-")
        kept = place / "study.json"
        if not kept.exists():
            seconds = step_seconds(train, name)
            steps = round(VARIANTS[name][2] * SECONDS / seconds)
            config = RunConfig.model_validate(settings(train, place, name, steps) | {"evaluate": measured})
            finish(config)
            results.write(kept, {"step_seconds": seconds, "steps": steps})
        length = json.loads(kept.read_text())
        found = json.loads((place / "evaluation" / "pretrain.json").read_text())
        figures = {f: [found["means"][f], found["means"][f"{f}_se"]] for f in REPORTED}
        true = found["baselines"]["true_video"]
        variants[name] = length | {"figures": figures | {"true_video": [true["reward"], true["reward_se"]]}}
    return {"variants": variants, "seconds": SECONDS, "provenance": provenance()}


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: the figures of each variant, with machine and versions."""
    titles = ["variant", "steps", "s a step", "reward of the true video", *REPORTED.values()]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in figures["variants"].items():
        cells = [f"{mean:.4f} ± {error:.4f}" for mean, error in (row["figures"][f] for f in ("true_video", *REPORTED))]
        lines.append("| " + " | ".join([name, str(row["steps"]), f"{row['step_seconds']:.2f}", *cells]) + " |")
    return "\n".join([*lines, "", f"{results.origin(figures['provenance'])}."])


def main() -> None:
    """Runs the study and prints its table; with --out writes its result."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.heads", description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("folder", type=Path, help="the folder of the variants")
    parser.add_argument("--only", action="append", default=[], help="name of a variant; may be given several times")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    if unknown := sorted(set(options.only) - set(VARIANTS)):
        parser.error(f"--only {unknown[0]}: choose from {', '.join(VARIANTS)}")
    figures = run(options.demo, options.folder, options.only)
    print(table(figures))
    if options.out is not None:
        results.write(options.out, figures)


if __name__ == "__main__":
    main()
