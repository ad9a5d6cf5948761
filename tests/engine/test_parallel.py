"""Two processes under torchrun train like one; one signal stops both, and their resume is exact."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from phys4d.engine import checkpoint
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONFAULTHANDLER": "1"}  # shows the failing rank
ALONE = Parallel.alone()


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def two(toy_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by two processes; beside it the one whose rank 1 got a SIGTERM, resumed."""
    folder = tmp_path_factory.mktemp("parallel") / "two"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, str(toy_program), str(folder), "--stop-rank", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def one(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel") / "one"
    toy.run_toy(folder, ALONE, resume=False)
    return folder


def test_losses_and_gradient_norms_equal_those_of_one_process(two: Path, one: Path) -> None:
    """Weights are not compared: AdamW turns the rounding of a gradient that should be 0 into a full step."""
    assert logged(two, "step") == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm"):
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-5)
    assert max(logged(one, "grad_norm")) > 1  # so that clipping acted


def test_a_signal_to_one_rank_stops_both_and_the_resumed_run_is_bit_identical(two: Path) -> None:
    stopped = two.with_name("two-stopped")
    for rank in (0, 1):
        whole, resumed = torch.load(two / f"weights-{rank}.pt"), torch.load(stopped / f"weights-{rank}.pt")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert logged(stopped, "loss") == logged(two, "loss")


def test_one_process_reads_what_two_wrote(two: Path, toy: ModuleType) -> None:
    fresh = toy.Toy(ALONE)
    checkpoint.load_weights(two / "checkpoint-toy-6", fresh.modules())
    expected = torch.load(two / "weights-0.pt")
    assert all(torch.equal(value, expected[name]) for name, value in toy.weights(fresh).items())


def test_a_share_is_contiguous_and_must_divide() -> None:
    ranks = [Parallel(rank, 3, torch.device("cpu")) for rank in range(3)]
    assert [list(rank.local(range(6))) for rank in ranks] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(
        UserError, match="a global batch of 4 does not divide over 3 processes: choose a multiple of 3"
    ):
        ranks[0].local([1, 2, 3, 4])


def test_alone_means_and_flags_are_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    parallel = Parallel.start()
    assert (parallel.rank, parallel.world_size, parallel.context, parallel.share) == (0, 1, None, 1.0)
    rows = [{"b": torch.tensor(2.5, requires_grad=True), "a": 1.0}, {"b": float("inf"), "a": -3.0}]
    assert parallel.sums(rows) == [{"a": 1.0, "b": 2.5}, {"a": -3.0, "b": float("inf")}]
    assert parallel.sums([{}, {}]) == [{}, {}] and parallel.any(True) and not parallel.any(False)
    assert on_all_ranks(lambda: 3) == 3
    with pytest.raises(UserError, match="mine"):
        on_all_ranks(lambda: (_ for _ in ()).throw(UserError("mine")))
    parallel.close()
    net = torch.nn.Linear(2, 2)
    assert parallel.shard(net) is net and isinstance(net.weight, torch.nn.Parameter)


def test_ranks_wait_without_a_limit_for_what_one_does_alone(tmp_path: Path) -> None:
    """Under a limit of two seconds rank 0 works for three, and rank 1 gathers late; under one that holds, both end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, str(Path(__file__).with_name("waiting_ranks.py")), port]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | QUIET)
    first, second = sorted(map(json.loads, done.stdout.splitlines()), key=lambda got: got["rank"])
    assert (first["alone"], second["alone"]) == ("worked", None)
    assert (first["gathered"], second["gathered"]) == ([{"rank": 0}, {"rank": 1}], None)
    assert first["fault"] == "UserError: the disk is full"
    assert second["fault"] == "FaultElsewhere: stopped by a fault that rank 0 reports"
    lines = [line for line in done.stderr.splitlines() if line.startswith("phys4d: ")]
    what = "rank 0 passed the time limit of work under a limit, and the others wait for it"
    assert lines == [f"phys4d: {what}: what was being written is not kept"] and done.returncode == 130


def test_gradients_that_would_not_be_summed_are_noticed() -> None:
    """A module may be left out of all micro-batches of a step, or of the first ones, and of the last one alone not."""
    program = Path(__file__).with_name("unsummed_training.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr[-2000:]
    unsummed = "was not evaluated in the last micro-batch: its gradients are not summed"
    assert done.stdout.splitlines() == [
        "both: stepped", "one never: stepped", "one last: stepped", f"one first: FSDPSequential {unsummed}",
    ]  # fmt: skip
