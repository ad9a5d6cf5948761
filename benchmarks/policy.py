"""How the policy learns: rewards compared with the true error, and the settings of its updates.

    python -m phys4d.benchmarks.policy runs/demo runs/policy

takes the fine-tuned model and the training clips of a finished demo, and scenes for choosing (seed 5, never the demo's
test scenes). Every variant is trained from that model with everything else as in the recipe; what is there is skipped.
The figures go to benchmarks/results/policy/summary.json.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.evaluate.changes import paired

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "policy"
SCENES = 100
UPDATES = 40
FIGURES = ("reward", "psnr_moving", "chamfer_4d")
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


def within_groups(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of a and b, both [groups, members], after taking each group's mean off."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


@torch.no_grad()
def reward_forms(model_folder: Path, data: Path, scenes: int = 24, group: int = 8) -> dict[str, dict[str, float]]:
    """Of each form of the reward: mean, deviation within a scene's generated clips, the part of it that comes from the
    noise in which geometry is read, and the correlation within scenes with minus the mean squared error of what moves.
    """
    from phys4d.clips import TRUTH, Clips
    from phys4d.evaluate.metrics import moving_region, psnr_moving
    from phys4d.models.folder import load
    from phys4d.rewards.moving_chamfer import moving_chamfer

    model = load(model_folder).model.eval()
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


def run(demo: Path, folder: Path) -> dict[str, Any]:
    """Trains and measures what is missing below `folder`, and returns the study's figures."""
    from phys4d.demo import load_recipe
    from phys4d.engine.parallel import Parallel
    from phys4d.engine.telemetry import provenance
    from phys4d.evaluate.run import EvaluateConfig, evaluate_folder
    from phys4d.simulation.generate import simulate
    from phys4d.stages.run_file import RunConfig

    recipe = load_recipe(None, [])
    data = folder / "data"
    if not (data / "index.parquet").exists():
        chosen = recipe.simulate.test.model_copy(update={"seed": 5, "clips": SCENES})
        simulate(chosen, data, workers=recipe.workers)
    measured = EvaluateConfig(data=data, scenes=SCENES, samples=2, shown=1, failures=0, batch=20)
    start = demo / "model-finetune"
    before = _kept(folder / "finetune.json", lambda: evaluate_folder(start, measured, Parallel.start()))
    variants = {}
    for name, changes in VARIANTS.items():
        changed = {"data": demo / "data" / "train", "loop.steps": UPDATES} | changes
        settings = variant(recipe.run.table("reinforce"), changed)
        place = folder / name.replace(" ", "-")
        whole = {"folder": place, "stages": ("reinforce",), "init": start, "reinforce": settings, "evaluate": measured}
        after = _trained(RunConfig.model_validate(whole))
        variants[name] = {"changes": changes, **_changed(before, after)}
    forms = _kept(folder / "forms.json", lambda: reward_forms(start, data))
    return {"reward_forms": forms, "variants": variants, "updates": UPDATES, "provenance": provenance()}


def variant(recipe: Any, changes: Mapping[str, Any]) -> Any:
    """The stage's configuration with some values changed, keys as `table.key`; checked like one from a file."""
    settings = recipe.model_dump()
    for key, value in changes.items():
        table, _, last = key.rpartition(".")
        (settings[table] if table else settings)[last] = value
    return type(recipe).model_validate(settings)


def _trained(config: Any) -> dict[str, Any]:
    from phys4d.engine.parallel import Parallel
    from phys4d.engine.telemetry import Run
    from phys4d.stages.preflight import check
    from phys4d.train import run_stages

    if not (config.folder / "summary.json").exists():
        check(config)
        resume = (config.folder / "config.toml").exists()
        with Run.create(config.folder, config, resume=resume) as run:
            run_stages(config, run, Parallel.start(), resume=resume)
    return json.loads((config.folder / "evaluation" / "reinforce.json").read_text())


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    rows = {}
    for figure in FIGURES:
        change = paired(before["scenes"][figure], after["scenes"][figure])
        assert change is not None
        rows[figure] = {"mean": change.mean, "standard_error": change.standard_error}
    return rows


def _kept(path: Path, make: Any) -> Any:
    """The JSON at `path`, made first where it is absent."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text())


def table(figures: Mapping[str, Any]) -> str:
    """The variants as markdown, with the provenance of the run."""
    titles = {"reward": "reward", "psnr_moving": "PSNR moving dB", "chamfer_4d": "4D Chamfer m"}
    lines = ["| variant | " + " | ".join(titles[f] for f in FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, row in figures["variants"].items():
        cells = [f"{row[f]['mean']:+.4f} ± {row[f]['standard_error']:.4f}" for f in FIGURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    where = figures["provenance"]
    told = f"torch {where['torch']}, revision {str(where['git_revision'])[:12]}, {where['date'][:10]}."
    return "\n".join([*lines, "", f"{where['cpu']}, {told}"])


def forms_table(figures: Mapping[str, Any]) -> str:
    """The forms of the reward as markdown."""
    titles = ("points", "mean", "deviation within a scene", "of it reading noise", "correlation with the error")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in figures["reward_forms"].items():
        lines.append(
            f"| {name} | {row['mean']:.4f} | {row['group_std']:.4f} | {row['reading_std']:.4f} "
            f"| {row['correlation_with_error']:.2f} |"
        )
    return "\n".join(lines)


def summary() -> dict[str, Any] | None:
    """The committed figures, None where there are none."""
    file = RESULTS / "summary.json"
    return json.loads(file.read_text()) if file.exists() else None


def main() -> None:
    """Runs the study, writes its figures and fills the page in the docs."""
    from phys4d.benchmarks import readme

    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.policy", description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("folder", type=Path, help="where the variants go")
    options = parser.parse_args()
    figures = run(options.demo, options.folder)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "summary.json").write_text(json.dumps(figures, indent=1) + "\n")
    readme.write()


if __name__ == "__main__":
    main()
