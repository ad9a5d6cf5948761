"""Two nodes under torchrun train as one process does; one that is lost ends the other in time, resumably, or torchrun
starts both again and the run goes on by itself.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cluster.nodes import Nodes, c10d, static, why_not
from tests.cluster.training import AGAIN, KEPT, LATE, SILENCE, START, STEPS, Training, wait

pytestmark = pytest.mark.slow

CUT = 12  # steps before something happens


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path], clips: Path) -> Training:
    """The run of one process to which nothing happened."""
    whole = Training(tmp_path_factory.mktemp("one"), write_run, clips)
    whole.alone()
    return whole


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path], clips: Path) -> Training:
    """The run of two nodes to which nothing happened."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    whole = Training(tmp_path_factory.mktemp("two"), write_run, clips)
    with Nodes() as nodes:
        agents = whole.start(nodes)
        assert [agent.wait(START) for agent in agents] == [0, 0], whole.said(0) + whole.said(1)
    return whole


def assert_as_one(training: Training, one: Training) -> None:
    """Order of samples, and losses within 1e-5."""
    assert training.samples() == one.samples() and len(one.samples()) == STEPS
    losses, expected = training.losses(), one.losses()
    assert losses == pytest.approx(expected, rel=1e-5) and len(expected) == STEPS


def test_two_nodes_train_as_one_process(two: Training, one: Training) -> None:
    assert_as_one(two, one)
    assert two.lines(0) == two.lines(1) == []


@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_that_loses_its_power_ends_the_other_and_one_goes_on(
    nodes: Nodes, training: Training, one: Training, lost: int
) -> None:
    """The first one holds the store at which the ranks and torchrun's agents meet: the other agent stops its rank."""
    agents, left = training.start(nodes, pause=0.1), 1 - lost
    wait(agents, lambda: len(training.losses()) >= CUT, START)
    nodes.kill(lost)
    taken = wait([], lambda: bool(training.lines(left)), SILENCE + LATE)
    ended = wait([], lambda: agents[left].poll() is not None, START)
    print(f"node {lost} lost: the other said so after {taken:.1f} s, its agent ended after {taken + ended:.1f} s")
    (line,) = training.lines(left)
    what = rf"rank {lost} ended during (saving )?step \d+ of backbone"
    assert re.fullmatch(rf"phys4d: ({what}|stopped by SIGTERM \({what}\)): {training.folder}: {KEPT}", line), line
    assert (training.record / f"code-{left}").read_text() == "3" and agents[left].poll() == 1
    training.alone("--resume")
    assert_as_one(training, one)


def test_a_lost_node_is_left_out_where_torchrun_may_go_on_with_one(
    nodes: Nodes, training: Training, one: Training
) -> None:
    agents = training.start(nodes, "--max-restarts", "1", few="1:2", pause=0.1)
    wait(agents, lambda: len(training.losses()) >= CUT, START)
    nodes.kill(1)
    assert agents[0].wait(2 * START) == 0, training.said(0)
    assert training.lines(0)[-1] == f"phys4d: {training.folder}: {AGAIN}"
    assert [(training.record / f"starts-{rank}").stat().st_size for rank in (0, 1)] == [2, 1]
    assert_as_one(training, one)


def test_a_cut_cable_ends_both_nodes_and_one_goes_on(nodes: Nodes, training: Training, one: Training) -> None:
    agents = training.start(nodes, pause=0.1)
    wait(agents, lambda: len(training.losses()) >= CUT, START)
    before = [set(nodes.processes(node)) for node in (0, 1)]
    nodes.cut()
    begun = time.monotonic()
    for node in (0, 1):  # of each, the worker ends, and the agent later
        wait([], lambda node=node: before[node] > set(nodes.processes(node)), SILENCE + LATE)
        print(f"cut: node {node} ended within {time.monotonic() - begun:.1f} s")
    where = r"(saving )?step \d+ of backbone"
    first, second = training.lines(0), training.lines(1)
    silent = rf"rank 1 gave no sign of life for {SILENCE:.0f} s, last seen during {where}"
    assert len(first) == 1 and re.fullmatch(rf"phys4d: {silent}: {training.folder}: {KEPT}", first[0]), first
    silent = rf"rank 0 cannot be reached for \d+ s, since {where}"
    assert len(second) == 1 and re.fullmatch(rf"phys4d: {silent}: {training.folder}: {KEPT}", second[0]), second
    wait([], lambda: agents[0].poll() is not None, START)
    assert re.search(r"exitcode *: 3 ", training.said(0))
    nodes.kill(1)  # its agent waits a minute for that of the first
    training.alone("--resume")
    assert_as_one(training, one)


@pytest.mark.parametrize(
    ("what", "rank", "meeting"), [("kill", 1, c10d), ("kill", 0, c10d), ("kill", 1, static), ("hang", 1, c10d)]
)
def test_torchrun_starts_both_again_and_the_run_goes_on(
    nodes: Nodes, training: Training, two: Training, what: str, rank: int, meeting: Callable[[int], list[str]]
) -> None:
    fault = {"rank": rank, "step": CUT, "what": what}
    agents = training.start(nodes, "--max-restarts", "3", meeting=meeting, faults=[fault])
    assert [agent.wait(3 * START) for agent in agents] == [0, 0], training.said(0) + training.said(1)
    assert training.lines(0)[-1] == f"phys4d: {training.folder}: {AGAIN}"
    if what == "hang":
        line = f"rank 1 passed the time limit of step {CUT + 1} of backbone, and the others wait for it"
        assert f"phys4d: {line}: {training.folder}: {KEPT}" in training.lines(0)
    assert (training.record / "starts-0").stat().st_size == (training.record / "starts-1").stat().st_size == 2
    assert training.samples() == two.samples() and training.losses() == two.losses()
    ours, theirs = training.weights(), two.weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
