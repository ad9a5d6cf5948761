"""docs/add-a-stage.md, followed literally in a copy of the package."""

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


@pytest.mark.slow
def test_a_stage_is_one_file_and_one_line(write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> None:
    page = (PACKAGE.parent / "docs" / "add-a-stage.md").read_text()
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (table,) = re.findall(r"```toml\n.*?(\[calibrate\].*?)```", page, re.DOTALL)
    copy = tmp_path / "copy" / "phys4d"
    shutil.copytree(PACKAGE, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKED:
        (copy / name).unlink()
        (copy / name).symlink_to((PACKAGE / name).resolve())
    (copy / "stages" / "calibrate.py").write_text(file)
    registry = copy / "stages" / "registry.py"
    text = registry.read_text().replace("import backbone, ", "import backbone, calibrate, ")
    registry.write_text(text.replace("        pretrain.SPEC,\n", "        pretrain.SPEC,\n" + line))
    stages = ["backbone", "pretrain", "calibrate"]
    run = write_run(tmp_path / "run.toml", tmp_path / "run", clips, stages)
    run.write_text(run.read_text() + table.replace("data/train", str(clips)))
    command = [sys.executable, "-m", "phys4d", "train", str(run), "--set", "calibrate.loop.steps=2"]
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["stages"]) == ["pretrain", "calibrate"] and "pretrain to calibrate" in summary["changes"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "calibrate taught the heads metric depth" in report and "calibrate: loss" in report
