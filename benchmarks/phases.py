"""Does each phase help? Several training seeds, test scenes that nothing was chosen on, a control and an ablation.

    python -m phys4d.benchmarks.phases runs/phases --seeds 0 1 2

trains the demo's recipe with more updates of the policy once per seed, beside it finetune without the warp loss and
reinforce with shuffled advantages, and skips what is there already. Then benchmarks/results/phases/ takes the figures
of every scene over, and the README their paired changes with bootstrap intervals.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.evaluate.changes import READ

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "phases"
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
SAME_HEADS = ("finetune to reinforce", "finetune to reinforce with shuffled advantages")  # the others' read differently
FIGURES = {
    "absrel": "AbsRel",
    "delta1": "delta1",
    "epe": "EPE px",
    "epe_moving": "EPE moving px",
    "warp_l1": "warp L1 m",
    "chamfer_4d": "4D Chamfer m",
    "psnr_moving": "PSNR moving dB",
    "reward": "reward",
}


def bootstrap(changes: np.ndarray, draws: int = 10_000) -> tuple[float, float, float]:
    """Mean and 95 % percentile interval of changes [seeds, scenes].

    Scenes are drawn again, with all seeds' changes of a scene together: seeds that share a scene are no new scenes.
    A scene in which a seed has nothing to measure (NaN) is left out.
    """
    scenes = changes[:, np.isfinite(changes).all(axis=0)].mean(axis=0)
    chosen = np.random.Generator(np.random.Philox(key=0)).integers(len(scenes), size=(draws, len(scenes)))
    low, high = np.percentile(scenes[chosen].mean(axis=1), [2.5, 97.5])
    return float(scenes.mean()), float(low), float(high)


def compare(tables: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every comparison's change of every figure, from one mapping of `TABLES` to evaluation tables per seed."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (before, after) in COMPARISONS.items():
        for figure in FIGURES:
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
    """The comparisons as markdown: mean change [95 % interval]."""
    lines = ["| change | " + " | ".join(FIGURES.values()) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, row in figures["comparisons"].items():
        cells = [
            f"{row[f]['mean']:+.4f} [{row[f]['low']:+.4f}, {row[f]['high']:+.4f}]" if f in row else "" for f in FIGURES
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    where = figures["provenance"]
    minutes = ", ".join(f"{sum(taken.values()) / 60:.0f}" for taken in figures["seconds"].values())
    lines += [
        "",
        f"Seeds {', '.join(figures['seconds'])}: {minutes} minutes of training and evaluation, {where['cores']} cores "
        f"of {where['cpu']}, torch {where['torch']}, revision {str(where['git_revision'])[:12]}, {where['date'][:10]}.",
    ]
    return "\n".join(lines)


def run_seed(folder: Path, seed: int) -> None:
    """Trains and measures one seed below `folder`: the whole recipe, then the ablation and the control."""
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
        _train(RunConfig.model_validate(whole.model_copy(update=change | {"folder": runs / name})))


def _train(config: Any) -> None:
    from phys4d.engine.parallel import Parallel
    from phys4d.engine.telemetry import Run
    from phys4d.stages.preflight import check
    from phys4d.train import run_stages

    if (config.folder / "summary.json").exists():
        return
    check(config)
    resume = (config.folder / "config.toml").exists()
    with Run.create(config.folder, config, resume=resume) as run:
        run_stages(config, run, Parallel.start(), resume=resume)


def adopt(folder: Path, seeds: Sequence[int]) -> None:
    """Copies the seeds' figures, and what they say together, to benchmarks/results/phases/."""
    tables, seconds, provenance = [], {}, {}
    for seed in seeds:
        kept = RESULTS / f"seed-{seed}"
        kept.mkdir(parents=True, exist_ok=True)
        for name, (run, stage) in TABLES.items():
            shutil.copyfile(folder / f"seed-{seed}" / run / "evaluation" / f"{stage}.json", kept / f"{name}.json")
        runs = {run for run, _ in TABLES.values()}
        summaries = {r: json.loads((folder / f"seed-{seed}" / r / "summary.json").read_text()) for r in sorted(runs)}
        seconds[str(seed)] = {run: summary["seconds"] for run, summary in summaries.items()}
        provenance = summaries["run"]["provenance"]
        shutil.copyfile(folder / f"seed-{seed}" / "run" / "config.toml", kept / "config.toml")
        tables.append(read(kept))
    figures = {"comparisons": compare(tables), "seconds": seconds, "provenance": provenance}
    (RESULTS / "summary.json").write_text(json.dumps(figures, indent=1) + "\n")


def done() -> bool:
    """Whether results are committed."""
    return (RESULTS / "summary.json").exists()


def summary() -> dict[str, Any]:
    """The committed comparisons."""
    return json.loads((RESULTS / "summary.json").read_text())


def read(folder: Path) -> dict[str, Any]:
    """The committed tables of one seed, by name."""
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in TABLES}


def main() -> None:
    """Trains what is missing, then writes the results and the README's table."""
    from phys4d.benchmarks import readme

    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.phases", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train-only", action="store_true", help="no results yet: other seeds run elsewhere")
    options = parser.parse_args()
    for seed in options.seeds:
        run_seed(options.folder, seed)
    if not options.train_only:
        adopt(options.folder, options.seeds)
        readme.write()


if __name__ == "__main__":
    main()
