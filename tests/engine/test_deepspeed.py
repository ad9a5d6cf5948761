"""ZeRO-2 and ZeRO-3 by DeepSpeed train as one process does, and their checkpoints are anyone's."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from phys4d.engine import checkpoint
from phys4d.engine.distributed import strategy
from phys4d.engine.distributed.flat import FlatPart, boxes
from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONFAULTHANDLER": "1"}
ALONE = Parallel.alone()
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason='deepspeed is absent: pip install "phys4d[deepspeed]"'
)


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def toy_run(toy_program: Path) -> Callable[..., str]:
    """Runs the toy on two ranks; returns what it printed to standard output."""

    def run(folder: Path, *words: str, ranks: int = 2, ends: int = 0) -> str:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *torchrun, str(toy_program), str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET)
        assert done.returncode == ends, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def one(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed") / "one"
    toy.run_toy(folder, ALONE, resume=False)
    return folder


@needs_deepspeed
@pytest.mark.parametrize("stage", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_two_ranks_train_as_one_and_resume_exactly(
    stage: int, one: Path, toy: ModuleType, toy_run: Callable[..., str], tmp_path: Path
) -> None:
    """Losses, norms of all gradients and of a group; rank 1 gets a SIGTERM in a second run, which is resumed."""
    two, stopped = tmp_path / "two", tmp_path / "two-stopped"
    assert toy_run(two, "--zero", str(stage), "--stop-rank", "1") == ""
    assert logged(two, "step") == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm", "grad_norm.scale"):
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-5)
    assert max(logged(one, "grad_norm")) > 1  # so that clipping acted
    fresh = toy.Toy(ALONE)
    checkpoint.load_weights(two / "checkpoint-toy-6", fresh.modules())
    read = toy.weights(fresh)
    for rank in (0, 1):
        whole, resumed = torch.load(two / f"weights-{rank}.pt"), torch.load(stopped / f"weights-{rank}.pt")
        assert all(torch.equal(whole[name], resumed[name]) and torch.equal(whole[name], read[name]) for name in whole)
    assert logged(stopped, "loss") == logged(two, "loss")


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((), ("--zero", "3")), (("--zero", "3"), ("--zero", "2")),
                                               (("--zero", "2"), ()), (("--zero", "3"), None)])  # fmt: skip
def test_a_run_goes_on_under_another_strategy(
    before: tuple[str, ...], after: tuple[str, ...] | None, one: Path, toy: ModuleType, toy_run: Callable[..., str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """FSDP2 to ZeRO-3, ZeRO-3 to ZeRO-2, ZeRO-2 to FSDP2, ZeRO-3 to one process; the first session is killed."""
    folder = tmp_path / "run"
    toy_run(folder, *before, "--kill-at", "4", ends=1)
    assert checkpoint.latest(folder, "toy") == (folder / "checkpoint-toy-3", 3)
    if after is None:
        toy.run_toy(folder, ALONE, resume=True)
    else:
        toy_run(folder, *after, "--resume")
    for name in ("loss", "grad_norm"):
        assert logged(folder, name) == pytest.approx(logged(one, name), rel=1e-5)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_steps_and_parts_of_an_optimizer(stage: int) -> None:
    """Each property is an assertion of `zero_ranks.py`."""
    program = Path(__file__).with_name("zero_ranks.py")
    done = subprocess.run(
        [sys.executable, str(program), str(stage)], capture_output=True, text=True, env=os.environ | QUIET
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0: done", "rank 1: done"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"strategy": "deepspeed", "context": 2}, 'context: expected 1 with strategy = "deepspeed", not 2'),
        ({"strategy": "deepspeed", "replicate": 2}, 'replicate: expected 1 with strategy = "deepspeed", not 2'),
        ({"strategy": "deepspeed", "reshard_after_forward": "never"}, "reshard_after_forward: expected 'auto' with"),
        ({"zero_stage": 2}, 'zero_stage = 2 is for strategy = "deepspeed": remove it'),
        ({"strategy": "deepspeed", "zero_stage": 1}, "Input should be 2 or 3"),
    ],
)
def test_what_deepspeed_does_not_divide_is_refused(table: dict, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ParallelConfig(**table)
    assert message in str(refused.value)


def test_an_absent_package_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.importlib.util, "find_spec", lambda name: None)
    strategy.check_strategy(ParallelConfig())
    with pytest.raises(UserError, match=r'parallel\.strategy: .* is not installed: pip install "phys4d\[deepspeed\]"'):
        strategy.check_strategy(ParallelConfig(strategy="deepspeed"))


@given(shape=st.lists(st.integers(1, 4), max_size=4), data=st.data())
def test_a_range_of_elements_is_boxes_in_the_same_order(shape: list[int], data: st.DataObject) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    start = data.draw(st.integers(0, whole.numel()))
    stop = data.draw(st.integers(start, whole.numel()))
    found = boxes(shape, start, stop)
    parts = [whole[tuple(slice(o, o + s) for o, s in zip(*box, strict=True))].flatten() for box in found]
    assert torch.equal(torch.cat([torch.empty(0, dtype=torch.int64), *parts]), torch.arange(start, stop))
    assert len(found) <= max(1, 2 * len(shape) - 1)


def test_a_range_of_elements_is_read_from_a_checkpoint(tmp_path: Path) -> None:
    whole = torch.arange(60.0).view(3, 4, 5)
    saved = checkpoint.save(tmp_path, "part", 1, {"a": whole})
    found = FlatPart(torch.zeros(20), 13, whole.shape).clone()
    checkpoint.load(saved, {"a": found})
    assert torch.equal(found.own, torch.arange(13.0, 33.0))
