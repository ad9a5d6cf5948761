"""The effect of each training phase: several seeds, test scenes not used for any choice, an ablation and a control.

    python -m phys4d.benchmarks.phases runs/phases --seeds 0 1 2 [--out benchmarks/results/phases]

trains the demo's recipe with more policy updates once per seed, and for each seed also finetune without the warp loss
(the ablation) and reinforce with shuffled advantages (the control); finished runs are skipped. With --out the metrics
of every scene are copied to that folder, and summary.json gets their paired changes with bootstrap intervals.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.benchmarks import results
from phys4d.benchmarks.demo import METRICS
from phys4d.benchmarks.training_runs import finish
from phys4d.evaluate import intervals
from phys4d.evaluate.changes import READ

RECIPE = (
    "simulate.test={families=['fall','collision'],looks='plain',clips=100,seed=8,frames=13,fps=20}",
    "run.evaluate.scenes=100", "run.evaluate.batch=20", "run.reinforce.loop.steps=40",
)  # fmt: skip
TABLES = {  # committed name -> run, stage
    "pretrain": ("run", "pretrain"),
    "finetune": ("run", "finetune"),
    "reinforce": ("run", "reinforce"),
    "no-warp": ("no-warp", "finetune"),
    "control": ("control", "reinforce"),
}
COMPARISONS = {
    "pretrain to finetune": ("pretrain", "finetune"),
    "finetune without warp loss to with it": ("no-warp", "finetune"),
    "finetune to reinforce": ("finetune", "reinforce"),
    "finetune to reinforce with shuffled advantages": ("finetune", "control"),
}
# Comparisons whose models share their geometry heads: metrics that the heads read can be compared.
SAME_HEADS = ("finetune to reinforce", "finetune to reinforce with shuffled advantages")


def bootstrap(changes: np.ndarray, draws: int = 10_000) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval of changes [seeds, scenes].

    Scenes are resampled; the changes of all seeds in one scene stay together, since they are not independent. A scene
    with NaN for any seed (nothing to measure) is left out.
    """
    return intervals.bootstrap(changes[:, np.isfinite(changes).all(axis=0)].mean(axis=0), draws)[:3]


def compare(tables: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The change of every metric in every comparison; `tables`: per seed the evaluations named in `TABLES`."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (before, after) in COMPARISONS.items():
        for figure in METRICS:
            if figure in READ and name not in SAME_HEADS:
                continue
            old, new = (
                np.array([seed[table]["scenes"][figure] for seed in tables], dtype=float) for table in (before, after)
            )
            mean, low, high = bootstrap(new - old)
            each = np.nanmean(new - old, axis=1).tolist()
            rows.setdefault(name, {})[figure] = {"mean": mean, "low": low, "high": high, "seeds": each}
    return rows


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: mean change [95 % interval] of every metric in every comparison."""
    lines = ["| change | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name, row in figures["comparisons"].items():
        cells = [
            f"{row[f]['mean']:+.4f} [{row[f]['low']:+.4f}, {row[f]['high']:+.4f}]" if f in row else "" for f in METRICS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    minutes = ", ".join(f"{sum(taken.values()) / 60:.0f}" for taken in figures["seconds"].values())
    seeds = f"Seeds {', '.join(figures['seconds'])}: {minutes} minutes of training and evaluation"
    return "\n".join([*lines, "", f"{seeds}, {results.origin(figures['provenance'])}."])


def run_seed(folder: Path, seed: int) -> None:
    """Trains and evaluates one seed in `folder`: the whole recipe, then the ablation and the control."""
    from phys4d.demo import load_recipe, make_data, placed
    from phys4d.stages.run_file import RunConfig

    config = load_recipe(None, [*RECIPE, f"run.seed={seed}"])
    make_data(config, folder / "data")
    runs = folder / f"seed-{seed}"
    whole = placed(config.run, folder).model_copy(update={"folder": runs / "run"})
    finetune, reinforce = whole.table("finetune"), whole.table("reinforce")
    weights = finetune.weights.model_copy(update={"warp": 0.0})
    variants: dict[str, dict[str, Any]] = {
        "run": {},
        "no-warp": {
            "stages": ("finetune",),
            "init": runs / "run" / "model-pretrain",
            "finetune": finetune.model_copy(update={"weights": weights}),
        },
        "control": {
            "stages": ("reinforce",),
            "init": runs / "run" / "model-finetune",
            "reinforce": reinforce.model_copy(update={"shuffled_advantages": True}),
        },
    }
    for name, change in variants.items():
        finish(RunConfig.model_validate(whole.model_copy(update=change | {"folder": runs / name})))


def collect(folder: Path, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """Copies the metrics of the seeds from `folder` to `out`, and returns the content of summary.json."""
    tables, seconds, provenance = [], {}, {}
    for seed in seeds:
        kept = out / f"seed-{seed}"
        kept.mkdir(parents=True, exist_ok=True)
        for name, (run, stage) in TABLES.items():
            shutil.copyfile(folder / f"seed-{seed}" / run / "evaluation" / f"{stage}.json", kept / f"{name}.json")
        runs = {run for run, _ in TABLES.values()}
        summaries = {r: json.loads((folder / f"seed-{seed}" / r / "summary.json").read_text()) for r in sorted(runs)}
        seconds[str(seed)] = {run: summary["seconds"] for run, summary in summaries.items()}
        provenance = summaries["run"]["provenance"]
        shutil.copyfile(folder / f"seed-{seed}" / "run" / "config.toml", kept / "config.toml")
        tables.append({name: json.loads((kept / f"{name}.json").read_text()) for name in TABLES})
    return {"comparisons": compare(tables), "seconds": seconds, "provenance": provenance}


def main() -> None:
    """Trains what is missing; with --out writes and prints the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.phases", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="folder for the metrics of the seeds and summary.json")
    options = parser.parse_args()
    for seed in options.seeds:
        run_seed(options.folder, seed)
    if options.out is not None:
        figures = collect(options.folder, options.seeds, options.out)
        results.write(options.out / "summary.json", figures)
        print(table(figures))


if __name__ == "__main__":
    main()
