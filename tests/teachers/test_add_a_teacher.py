"""docs/add-a-teacher.md, followed literally in a copy of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import phys4d
from phys4d.engine.data.dataset import ClipDataset

PACKAGE = Path(phys4d.__file__).parent
LINKED = ("kernels", "engine", "benchmarks")


@pytest.mark.slow
def test_a_teacher_is_one_file_and_one_line(write_clips: Callable[..., Path], tmp_path: Path) -> None:
    page = (PACKAGE.parent / "docs" / "add-a-teacher.md").read_text()
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    copy = tmp_path / "copy" / "phys4d"
    shutil.copytree(PACKAGE, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKED:
        (copy / name).unlink()
        (copy / name).symlink_to((PACKAGE / name).resolve())
    (copy / "teachers" / "floor.py").write_text(file)
    registry = copy / "teachers" / "registry.py"
    text = registry.read_text()
    registry.write_text(text.replace("DEPTH_TEACHERS = {\n", "DEPTH_TEACHERS = {\n" + line))
    write_clips("data/clips", 2, 2, truth=False)
    environment = os.environ | {"PYTHONPATH": str(copy.parent)}
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    sample = ClipDataset(tmp_path / "data" / "labelled")[1]
    depth, valid = sample.arrays["depth"], sample.arrays["depth_valid"]
    focal = 16 / np.tan(np.radians(30))
    assert not valid[:, :16].any() and valid[:, 16:].all()
    np.testing.assert_allclose(depth[0, [16, 20, 31], 5], focal * 1.2 / np.array([0.5, 4.5, 15.5]), rtol=1e-3)
    record = sample.meta["provenance"]["labels"]["depth"]
    assert record["name"] == "floor" and record["settings"] == {"height": 1.2, "fov": 60.0}
    help_text = subprocess.run([*words[:3], "label", "--help"], cwd=tmp_path, env=environment, capture_output=True)
    assert b"floor" in help_text.stdout
