"""The effect of each training phase: several seeds, test scenes not used for any choice, ablations and controls.

    python -m phys4d.benchmarks.phases runs/phases --seeds 0 1 2 [--out benchmarks/results/phases]

trains the demo's recipe with more steps (`RECIPE`) once per seed, and for each seed also its ablations and controls
(`RUNS`); seeds side by side, one process and one thread each; finished runs are skipped, unfinished ones go
on. With --out the metrics of every scene are copied to that folder, and summary.json gets their paired changes
with bootstrap intervals, and which part of the way to the true video phase 3 goes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.benchmarks import results
from phys4d.benchmarks.demo import METRICS
from phys4d.benchmarks.training_runs import finish
from phys4d.evaluate import intervals

SCENES = 100
RECIPE = (
    f"simulate.test.clips={SCENES}", "simulate.test.seed=8", f"run.evaluate.scenes={SCENES}", "run.evaluate.batch=20",
    "run.finetune.loop.steps=1280", "run.finetune.heads_first=960", "run.reward_gradient.loop.steps=160",
    "run.reinforce.loop.steps=50",
)  # fmt: skip
POLICY = "reward_gradient"
"""The third phase of the recipe."""


def _without_warp(finetune: Any) -> Any:
    return finetune.model_copy(update={"weights": finetune.weights.model_copy(update={"warp": 0.0})})


def _heads_alone(finetune: Any) -> Any:
    """With a rate of the LoRA at which its product stays 0 to rounding, and the heads' own rate."""
    rate, heads = finetune.optimizer.learning_rate, finetune.heads_lr_scale
    optimizer = finetune.optimizer.model_copy(update={"learning_rate": STILL})
    return finetune.model_copy(update={"optimizer": optimizer, "heads_lr_scale": heads * rate / STILL})


def _shuffled(reinforce: Any) -> Any:
    return reinforce.model_copy(update={"shuffled_advantages": True})


STILL = 1e-12
# Run beside the whole one, "run" -> its stage, the stage of the whole run whose model it starts from, what is changed.
RUNS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "no-warp": ("finetune", "pretrain", _without_warp),
    "heads-alone": ("finetune", "pretrain", _heads_alone),
    "ppo": ("reinforce", "finetune", lambda reinforce: reinforce),
    "control": ("reinforce", "finetune", _shuffled),
}
TABLES = {  # committed name -> run, stage
    "pretrain": ("run", "pretrain"),
    "finetune": ("run", "finetune"),
    "gradient": ("run", POLICY),
    **{name: (name, stage) for name, (stage, *_) in RUNS.items()},
}
COMPARISONS = {
    "pretrain to finetune": ("pretrain", "finetune"),
    "finetune without warp loss to with it": ("no-warp", "finetune"),
    "finetune of the heads alone to with the LoRA": ("heads-alone", "finetune"),
    "finetune to reward gradient": ("finetune", "gradient"),
    "finetune to PPO": ("finetune", "ppo"),
    "finetune to PPO with shuffled advantages": ("finetune", "control"),
    "pretrain to reward gradient": ("pretrain", "gradient"),
}
THIRD = {"reward gradient": "gradient", "PPO": "ppo", "PPO, shuffled advantages": "control"}


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
            old, new = (
                np.array([seed[table]["scenes"][figure] for seed in tables], dtype=float) for table in (before, after)
            )
            mean, low, high = bootstrap(new - old)
            each = np.nanmean(new - old, axis=1).tolist()
            rows.setdefault(name, {})[figure] = {"mean": mean, "low": low, "high": high, "seeds": each}
    return rows


def share(part: np.ndarray, whole: np.ndarray, draws: int = 10_000) -> tuple[float, float, float]:
    """Mean of `part` over mean of `whole`, both [seeds, scenes], with a 95 % interval as of `bootstrap`."""
    part, whole = part.mean(axis=0), whole.mean(axis=0)
    chosen = np.random.Generator(np.random.Philox(key=0)).integers(len(part), size=(draws, len(part)))
    low, high = np.percentile(part[chosen].mean(axis=1) / whole[chosen].mean(axis=1), [2.5, 97.5])
    return float(part.mean() / whole.mean()), float(low), float(high)


def closed(tables: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of each kind of phase 3 the share of the way from phase 2's reward to that of the true video, read by the same
    heads, and the share by which the 4D Chamfer distance of what changes is below that of phase 1 (`share`)."""

    def reward(name: str) -> np.ndarray:
        return np.array([seed[name]["scenes"]["reward"] for seed in tables], dtype=float)

    true = np.array([seed["finetune"]["baseline_scenes"]["true_video"]["reward"] for seed in tables], dtype=float)
    found = {}
    for title, name in THIRD.items():
        gap = share(reward(name) - reward("finetune"), true - reward("finetune"))
        lower = share(reward(name) - reward("pretrain"), -reward("pretrain"))
        found[title] = dict(zip(("gap", "gap_low", "gap_high"), gap, strict=True))
        found[title] |= dict(zip(("lower", "lower_low", "lower_high"), lower, strict=True))
    return found


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: mean change [95 % interval] of every metric in every comparison, and what phase 3 closes."""
    lines = ["| change | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name, row in figures["comparisons"].items():
        cells = [
            f"{row[f]['mean']:+.4f} [{row[f]['low']:+.4f}, {row[f]['high']:+.4f}]" if f in row else "" for f in METRICS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if "closed" in figures:
        lines += _closed(figures["closed"])
    minutes = ", ".join(f"{sum(taken.values()) / 60:.0f}" for taken in figures["seconds"].values())
    seeds = f"Seeds {', '.join(figures['seconds'])}: {minutes} minutes of training and evaluation"
    return "\n".join([*lines, "", f"{seeds}, {results.origin(figures['provenance'])}."])


def _closed(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    titles = ("phase 3", "of the way from finetune to the true video", "4D Chamfer of what changes, below pretrain")
    lines = ["", "| " + " | ".join(titles) + " |", "|---|---|---|"]
    for name, row in rows.items():
        cells = [f"{row[f]:.0%} [{row[f'{f}_low']:.0%}, {row[f'{f}_high']:.0%}]" for f in ("gap", "lower")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def side_by_side(folder: Path, seeds: Sequence[int]) -> None:
    """Makes the data, then trains all seeds, each in a process of one thread; CalledProcessError where one fails, when
    all have ended."""
    from phys4d.demo import load_recipe, make_data

    make_data(load_recipe(None, RECIPE), folder / "data")
    command = [sys.executable, "-m", "phys4d.benchmarks.phases", str(folder), "--seeds"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([*command, str(seed)], env=alone) for seed in seeds]
    for process in started:
        process.wait()
    for process in started:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def run_seed(folder: Path, seed: int) -> None:
    """Trains and evaluates one seed in `folder`: the whole recipe, then its ablations and controls."""
    from phys4d.demo import load_recipe, make_data, placed
    from phys4d.stages.run_file import RunConfig

    config = load_recipe(None, [*RECIPE, f"run.seed={seed}"])
    make_data(config, folder / "data")
    runs = folder / f"seed-{seed}"
    whole = placed(config.run, folder)
    variants: dict[str, dict[str, Any]] = {"run": {}}
    for name, (stage, start, change) in RUNS.items():
        init, table = runs / "run" / f"model-{start}", change(whole.table(stage))
        variants[name] = {"stages": (stage,), "init": init, stage: table}
    for name, update in variants.items():
        changed = {**update, "folder": runs / name}
        finish(RunConfig.model_validate(whole.model_copy(update=changed)))


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
    return {"comparisons": compare(tables), "closed": closed(tables), "seconds": seconds, "provenance": provenance}


def main() -> None:
    """Trains what is missing; with --out writes and prints the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.phases", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="folder for the metrics of the seeds and summary.json")
    options = parser.parse_args()
    if len(options.seeds) == 1:
        run_seed(options.folder, options.seeds[0])
    else:
        side_by_side(options.folder, options.seeds)
    if options.out is not None:
        figures = collect(options.folder, options.seeds, options.out)
        results.write(options.out / "summary.json", figures)
        print(table(figures))


if __name__ == "__main__":
    main()
