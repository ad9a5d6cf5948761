"""Kernels compiled beforehand: unpacked in another folder, a second process finds all of them and compiles none."""

import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import triton

from phys4d.benchmarks import launches, named_calls, prebuilt
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, GEOMETRY, NORM_ROPE

CASES = ["opensora-norm-rope", "opensora-adaptive"]


def run(cache, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "phys4d.benchmarks.prebuilt", *map(str, arguments)],
        capture_output=True, text=True, env=environment | {"TRITON_CACHE_DIR": str(cache)}, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """An archive of two cases; the cache that it was made from is gone."""
    folder = tmp_path_factory.mktemp("prebuilt")
    made = run(folder / "cache", "fill", folder / "kernels.tar.xz", "--case", *CASES)
    assert made.returncode == 0, made.stderr
    assert "7 specialisations, 7 compiled" in made.stdout
    shutil.rmtree(folder / "cache")
    return folder / "kernels.tar.xz"


def listing(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_second_process_compiles_nothing(filled, tmp_path):
    cache = tmp_path / "elsewhere"
    assert "7 kernels put into" in run(cache, "unpack", filled).stdout
    before = listing(cache)
    found = run(cache, "check", "--case", *CASES)
    assert found.returncode == 0 and "7 specialisations, 0 compiled" in found.stdout, found.stdout + found.stderr
    assert listing(cache) == before  # it neither wrote nor touched a file


@pytest.mark.slow
def test_a_missing_kernel_is_found(filled, tmp_path):
    run(tmp_path, "unpack", filled)
    shutil.rmtree(next(tmp_path.rglob("collect.cubin")).parent)
    found = run(tmp_path, "check", "--case", *CASES)
    assert found.returncode == 1 and "7 specialisations, 1 compiled" in found.stdout


@pytest.mark.slow
def test_the_archive_holds_machine_code_and_launchers_alone(filled):
    with tarfile.open(filled) as archive:
        names = archive.getnames()
        objects = [archive.extractfile(name).read() for name in names if name.endswith(".so")]
    assert {name.rsplit(".", 1)[1] for name in names} == {"cubin", "json", "so"}
    assert len(names) == 1 + 2 * 7 + len(objects)
    launchers = triton.__version__.startswith("3.6.")  # later versions compile one for all kernels, the driver's
    assert len(objects) == 6 if launchers else 1
    assert all(b"libcuda.so.1" in code for code in objects)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["triton files", "ptxas", "environment"])
def test_another_compiler_is_refused(filled, tmp_path, what):
    with tarfile.open(filled) as archive:
        about = json.load(archive.extractfile(prebuilt.ABOUT))
    about["identity"][what] = "another"
    prebuilt.pack(tmp_path / "other.tar.xz", [], about)
    refused = run(tmp_path / "cache", "unpack", tmp_path / "other.tar.xz")
    assert refused.returncode == 2 and f"made with another {what} (another) than is here" in refused.stderr


def test_every_named_case_has_a_call():
    named = {case.name for case in (*ATTENTION, *NORM_ROPE, *ADAPTIVE_NORM, *GEOMETRY)}
    assert named_calls.calls().keys() == named
    assert launches.GEOMETRY.keys() - {"chamfer-trees", "one-pixel", "depth-log-l1"} <= named
