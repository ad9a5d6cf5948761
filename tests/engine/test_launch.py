"""A start of torchrun's processes is known as one of the same launch by their parents, and by nothing else."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder import launch
from phys4d.engine.run_folder.launch import AGENTS, agents, started_again
from phys4d.engine.run_folder.lock import hold
from phys4d.engine.run_folder.run import Run

ALONE = Parallel.alone()


@pytest.fixture
def under_torchrun(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    yield


def recorded(folder: Path) -> list[str] | None:
    return json.loads((folder / "provenance.json").read_text()).get(AGENTS)


@pytest.mark.usefixtures("under_torchrun")
def test_processes_of_the_same_parent_go_on_and_those_of_another_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = agents(ALONE)
    assert len(own) == 1 and not started_again(tmp_path, own, ALONE)
    Run.create(tmp_path, Config(), resume=False, launch=[*own, "of another node"]).close()
    assert started_again(tmp_path, own, ALONE) and started_again(tmp_path, ["of another node"], ALONE)
    monkeypatch.setattr(launch.os, "getppid", lambda: os.getpid())
    other = agents(ALONE)
    assert other != own and not started_again(tmp_path, other, ALONE)
    Run.create(tmp_path, Config(), resume=True, launch=other).close()
    assert recorded(tmp_path) == other and not started_again(tmp_path, own, ALONE)


def test_without_torchrun_no_start_belongs_to_a_launch(tmp_path: Path) -> None:
    assert agents(ALONE) == [] and not started_again(tmp_path, [], ALONE)
    Run.create(tmp_path, Config(), resume=False).close()
    assert recorded(tmp_path) is None
    Run.create(tmp_path, Config(), resume=True, launch=["an agent"]).close()
    Run.create(tmp_path, Config(), resume=True).close()
    assert recorded(tmp_path) == [] and not started_again(tmp_path, ["an agent"], ALONE)


@pytest.mark.usefixtures("under_torchrun")
def test_a_start_that_was_refused_is_none_of_the_run(tmp_path: Path) -> None:
    """However often torchrun repeats it."""
    Run.create(tmp_path, Config(), resume=False, launch=["another launch"]).close()
    for _ in range(3):
        assert not started_again(tmp_path, agents(ALONE), ALONE)
        with pytest.raises(UserError, match="holds a run already"):
            Run.create(tmp_path, Config(), resume=False, launch=agents(ALONE))


@pytest.mark.parametrize("stored", ["", "[]", '{"torchrun_agents": 3}', '{"torchrun_agents": [["a"]]}'])
def test_a_damaged_record_names_no_launch(tmp_path: Path, stored: str) -> None:
    (tmp_path / "provenance.json").write_text(stored)
    assert not started_again(tmp_path, ["a"], ALONE)


def test_a_folder_that_is_held_is_waited_for_as_long_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, now = hold(tmp_path, 0.0), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds
        if now[0] > 1:
            held.close()

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(UserError, match="another process is using this folder"):
        hold(tmp_path, 0.5)
    assert sum(waits) == pytest.approx(0.6)
    hold(tmp_path, 2.0).close()
    assert held.closed
