"""Backbones whose tokens are divided over two ranks predict, tap and learn what one process does."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("divided_ranks.py")
_spec = importlib.util.spec_from_file_location("divided_backbone_ranks", PROGRAM)
assert _spec is not None and _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)


Ranks = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Ranks:
    """What one process found of the "eager" or the "compiled" cases, then what each of two ranks did."""
    return cache(partial(_ranks, tmp_path_factory, repository))


def _ranks(tmp_path_factory: pytest.TempPathFactory, repository: Path, cases: str) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("divided")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, PROGRAM, folder, cases],
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        cwd=repository, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{name}.pt") for name in ("alone", "rank-0", "rank-1")]


@pytest.mark.parametrize("name", program.CASES)
def test_two_ranks_give_what_one_process_does(ranks: Ranks, name: str) -> None:
    """Velocity and taps, whole on each rank, and the mean of all gradients: every rank's loss is the whole loss."""
    found = [part[name] for part in ranks("eager")]
    assert found[0]["tap 0"].shape == found[0]["tap 1"].shape == (2, 45, 16 * program.CASES[name][1])
    expect_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("name", program.COMPILED)
def test_compiled_blocks_give_what_one_process_does(ranks: Ranks, name: str) -> None:
    """Also of clips of a second size, and without gradients."""
    found = [part[name] for part in ranks("compiled")]
    assert {"velocity of another size", "velocity without gradients"} < found[0].keys()
    expect_equal(*found)


def expect_equal(one: dict[str, Any], *both: dict[str, Any]) -> None:
    assert sum(key.startswith("gradient of ") for key in one) > 75
    largest = max(float(x.abs().max()) for key, x in one.items() if key.startswith("gradient of "))
    for two in both:
        assert two.keys() == one.keys()
        for key, expected in one.items():
            floor = 1e-6 * largest if key.startswith("gradient of ") else 0.0
            atol = 2e-5 * float(expected.abs().max()) + floor
            torch.testing.assert_close(two[key], expected, rtol=1e-4, atol=atol, msg=lambda t, k=key: f"{k}: {t}")
