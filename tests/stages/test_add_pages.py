"""The pages docs/add-a-*.md, followed literally in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import phys4d

PACKAGE = Path(phys4d.__file__).parent
LINKED = ("kernels", "engine", "benchmarks")
pytestmark = pytest.mark.slow


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package phys4d, with the folders that it links to."""
    copy = tmp_path / "copy" / "phys4d"
    shutil.copytree(PACKAGE, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKED:
        (copy / name).unlink()
        (copy / name).symlink_to((PACKAGE / name).resolve())
    return copy


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    text = (PACKAGE.parent / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def add(line: str, registry: Path, after: str) -> None:
    """Adds a line to a registry, behind another one."""
    text = registry.read_text()
    assert text.count(after) == 1 and line.count("\n") == 1
    registry.write_text(text.replace(after, after + line))


def train(copy: Path, run: Path, *overrides: str) -> Path:
    """Runs a run file with the copy; returns the run folder."""
    sets = [argument for override in overrides for argument in ("--set", override)]
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    command = [sys.executable, "-m", "phys4d", "train", str(run), *sets]
    done = subprocess.run(command, cwd=run.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return run.parent / "run"


def test_a_stage_is_one_file_and_one_line(write_run: Callable[..., Path], clips: Path, copy: Path) -> None:
    file, line = blocks("add-a-stage.md", "python")
    (table,) = (text[text.index("[calibrate]") :] for text in blocks("add-a-stage.md", "toml"))
    (copy / "stages" / "calibrate.py").write_text(file)
    add(line, copy / "stages" / "registry.py", '    "phys4d.stages.pretrain",\n')
    folder = copy.parents[1]
    run = write_run(folder / "run.toml", folder / "run", clips, ["backbone", "pretrain", "calibrate"])
    run.write_text(run.read_text() + table.replace("data/train", str(clips)))
    train(copy, run, "calibrate.loop.steps=2")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert list(summary["stages"]) == ["pretrain", "calibrate"] and "pretrain to calibrate" in summary["changes"]
    report = (folder / "run" / "report.html").read_text()
    assert "calibrate taught the heads metric depth" in report and "calibrate: loss" in report


def test_a_backbone_is_one_folder_and_one_line(write_run: Callable[..., Path], clips: Path, copy: Path) -> None:
    """All four stages train it, its adapters and heads load again, and it is evaluated."""
    backbone, spec, line = blocks("add-a-backbone.md", "python")
    (table,) = blocks("add-a-backbone.md", "toml")
    folder = copy.parents[1]
    (copy / "models" / "patch").mkdir()
    (copy / "models" / "patch" / "backbone.py").write_text(backbone)
    (copy / "models" / "patch" / "spec.py").write_text(spec)
    add(line, copy / "models" / "registry.py", '    "phys4d.models.wan.spec",\n')
    stages = ["backbone", "pretrain", "finetune", "reinforce"]
    run = write_run(folder / "run.toml", folder / "run", clips, stages)
    text, count = re.subn(r"\[model\]\n(?:.+\n)*", table, run.read_text())
    assert count == 1
    run.write_text(text)
    train(copy, run)
    card = json.loads((folder / "run" / "model-reinforce" / "phys4d.json").read_text())
    assert card["model"]["kind"] == "patch" and card["adapters"] == ["finetune", "reinforce"]
    chosen = json.loads((folder / "run" / "provenance.json").read_text())["attention"]
    assert chosen["joint"].startswith("sdpa: ") and chosen["left"] == {}
    assert list(json.loads((folder / "run" / "summary.json").read_text())["stages"]) == stages[1:]


def test_a_reward_is_one_file_and_one_line(write_run: Callable[..., Path], clips: Path, copy: Path) -> None:
    file, line = blocks("add-a-reward.md", "python")
    (table,) = blocks("add-a-reward.md", "toml")
    folder = copy.parents[1]
    (copy / "rewards" / "depth_ratio.py").write_text(file)
    add(line, copy / "rewards" / "registry.py", '    "phys4d.rewards.all_points",\n')
    run = write_run(folder / "run.toml", folder / "run", clips, ["backbone", "pretrain", "finetune", "reinforce"])
    assert run.read_text().count("[reinforce]\n") == 1
    run.write_text(run.read_text().replace("[reinforce]\n", table))
    metrics = (train(copy, run) / "metrics.jsonl").read_text().splitlines()
    rewards = [row["reward"] for row in map(json.loads, metrics) if row["stage"] == "reinforce" and "reward" in row]
    assert rewards and all(-3 < reward < 0 for reward in rewards)
