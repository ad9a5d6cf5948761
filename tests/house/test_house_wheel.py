"""What a built wheel holds, and how the package installs where native kernels cannot be built."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

BUILT_FROM = ("pyproject.toml", "setup.py", "CMakeLists.txt", "MANIFEST.in", "LICENSE", "README.md")
FOLDERS = ("phys4d", "kernels", "engine", "benchmarks")


@pytest.fixture(scope="module")
def source(repository, tmp_path_factory) -> Path:
    """A copy of what a build reads: building in the repository would leave its traces there."""
    copy = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (repository / name).exists():
            shutil.copy(repository / name, copy / name)
    leave = shutil.ignore_patterns("__pycache__", "*.so", "_build.json")
    for name in FOLDERS:
        shutil.copytree(repository / name, copy / name, symlinks=True, ignore=leave)
    return copy


def build_wheel(source: Path, out: Path, **environment: str) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(out), str(source)],
        env={**os.environ, **environment}, check=True, timeout=1200,  # of compiling on a busy machine
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> zipfile.ZipFile:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"), PHYS4D_NATIVE="off")


def test_the_wheel_holds_the_package_and_nothing_else(wheel, source):
    names = set(wheel.namelist())
    outside = [name for name in names if not re.match(r"phys4d/|phys4d-[^/]+\.dist-info/", name)]
    assert not outside, "these would land beside phys4d in site-packages"
    wanted = {"phys4d/__init__.py"}
    for folder in FOLDERS:
        prefix = "" if folder == "phys4d" else "phys4d/"
        for suffix in ("*.py", "*.toml", "*.html", "*.css", "*.js", "*.safetensors"):
            wanted |= {prefix + str(p.relative_to(source)) for p in (source / folder).rglob(suffix)}
    assert wanted - names == set()
    assert "phys4d/kernels/attention/api.py" in names
    assert "phys4d/kernels/__init__.py" not in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".cpp", ".cu"))]


def test_the_wheel_serves_every_python_3_of_its_platform(wheel):
    assert re.search(r"-py3-none-linux_\w+\.whl$", str(wheel.filename))


def test_the_base_needs_torch_triton_and_numpy_only(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    lines = metadata.get_all("Requires-Dist") or []
    base = {re.split(r"[<>=]", line)[0] for line in lines if "extra ==" not in line}
    assert base == {"torch", "triton", "numpy"}
    extras = set(metadata.get_all("Provides-Extra") or [])
    optional = {"flash", "xformers", "natten", "newton", "teachers", "raft", "wandb", "dali", "torchcodec", "deepspeed"}
    optional |= {"view", "assets", "cycles"}
    assert {"train", "sim", "eval", "dev", "remote"} | optional == extras
    (entry,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "phys4d = phys4d.cli:main" in wheel.read(entry).decode()


def run_build(source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(
        command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def test_without_a_compiler_it_installs_and_says_so(source):
    done = run_build(source, CXX="no-such-compiler", PHYS4D_NATIVE="auto")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("phys4d: native kernels not built:")]
    assert len(said) == 1
    assert "no C++ compiler (no-such-compiler)" in said[0] and "apt-get install" in said[0]
    record = json.loads((source / "kernels/native/_build.json").read_text())
    assert record["outcome"].startswith("not built: no C++ compiler")
    code = "from phys4d.kernels import native; print(*native.status())"
    status = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    assert status.stdout.startswith("False not built: no C++ compiler")


def test_a_build_that_was_asked_for_by_name_must_succeed(source):
    done = run_build(source, CXX="no-such-compiler", PHYS4D_NATIVE="cpu")
    assert done.returncode != 0 and "phys4d: native kernels not built: no C++ compiler" in done.stderr
    done = run_build(source, PHYS4D_NATIVE="sometimes")
    assert done.returncode != 0 and "expected one of auto, off, cpu, cuda" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_with_a_compiler_the_wheel_carries_the_kernels(source, tmp_path):
    wheel = build_wheel(source, tmp_path, PHYS4D_NATIVE="cpu")
    assert "phys4d/kernels/native/_C.so" in wheel.namelist()
    assert json.loads(wheel.read("phys4d/kernels/native/_build.json"))["outcome"] == "built for CPU"
    wheel.extractall(tmp_path / "site")
    code = (
        "import torch; from phys4d.kernels.geometry import nearest; x = torch.randn(9, 3); "
        "assert nearest(x, x, backend='native')[1].tolist() == list(range(9))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", timeout=120)
    assert done.returncode == 0
