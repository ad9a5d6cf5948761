"""What torchrun makes of the exit codes and signals of a run on one node, and what becomes of the run."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cluster.training import AGAIN, EVERY, START, STEPS, Training, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path], clips: Path) -> Training:
    """The run of two ranks to which nothing happened."""
    run = Training(tmp_path_factory.mktemp("whole"), write_run, clips)
    assert run.torchrun().wait(START) == 0, run.said(0)
    return run


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a run folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(run: Training, whole: Training) -> None:
    assert run.samples() == whole.samples() and run.losses() == whole.losses() and len(whole.losses()) == STEPS
    ours, theirs = run.weights(), whole.weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ranks_that_are_killed_and_warned_in_several_starts_end_bit_identical(
    training: Training, whole: Training
) -> None:
    """A SIGKILL, a SIGUSR1 to one rank, which makes a checkpoint, and a SIGKILL again."""
    faults = [{"rank": 0, "step": 7, "what": "kill"}, {"rank": 1, "step": 13, "what": "warn", "start": 1}]
    faults.append({"rank": 1, "step": 21, "what": "kill", "start": 2})
    agent = training.torchrun("--max-restarts", "3", faults=faults)
    assert agent.wait(4 * START) == 0, training.said(0)
    assert training.lines(0).count(f"phys4d: {training.folder}: {AGAIN}") == 3
    saved = f"after step 14: checkpoint {training.folder}/checkpoint-backbone-14: --resume goes on from it"
    assert f"phys4d: stopped by a signal in stage backbone {saved}" in training.lines(0)
    assert_same(training, whole)


def test_a_folder_that_holds_another_run_is_refused_at_every_start(training: Training) -> None:
    training.alone()
    before = files(training.folder)
    agent = training.torchrun("--max-restarts", "2")
    assert agent.wait(4 * START) == 1
    line = f"phys4d: error: {training.folder}: holds a run already: --resume goes on with it, or choose a new folder"
    assert training.lines(0) == [line] * 3
    assert files(training.folder) == before
    assert re.search(r"exitcode *: 2 ", training.said(0))


def test_what_went_on_before_is_done_once(training: Training, whole: Training) -> None:
    """--resume=previous removes one checkpoint, however often torchrun starts the ranks."""
    first = training.torchrun(faults=[{"rank": 1, "step": 13, "what": "kill"}])
    assert first.wait(START) == 1
    faults = [{"rank": 1, "step": 8, "what": "kill", "start": 1}]
    agent = training.torchrun("--max-restarts", "1", more=("--resume=previous",), faults=faults)
    assert agent.wait(2 * START) == 0, training.said(0)
    assert training.begun_at()[1:] == [EVERY, EVERY]
    assert_same(training, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_torchrun_stops_the_run_with_a_checkpoint(
    training: Training, whole: Training, number: signal.Signals
) -> None:
    handled = "SIGTERM,SIGINT,SIGHUP,SIGUSR1"
    agent = training.torchrun("--max-restarts", "3", "--signals-to-handle", handled, pause=0.1)
    wait([agent], lambda: len(training.losses()) >= EVERY + 2, START)
    agent.send_signal(number)
    assert agent.wait(START) == 1
    (line,) = training.lines(0)
    found = re.fullmatch(r"phys4d: stopped by a signal in stage backbone after step (\d+): checkpoint .*", line)
    assert found is not None, line
    assert (training.folder / "latest").read_text() == f"checkpoint-backbone-{found[1]}\n"
    assert training.torchrun(more=("--resume",)).wait(START) == 0, training.said(0)
    assert_same(training, whole)
