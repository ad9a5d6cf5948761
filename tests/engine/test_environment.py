"""The environment of a launcher is checked before anything is done with it."""

import pytest

from phys4d.cli import main
from phys4d.engine import environment
from phys4d.engine.environment import Place, place
from phys4d.engine.errors import UserError
from phys4d.simulation.distributed import ProcessRank

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}


def test_the_place_of_a_process() -> None:
    assert place(environment={}) == Place(0, 1, 0) == place(environment={"RANK": "", "LOCAL_RANK": "4"})
    assert place(environment=TORCHRUN) == Place(3, 8, 1)
    slurm = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    assert place(("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), slurm) == Place(1, 2, 0)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"RANK": "1"}, "RANK is set in the environment and WORLD_SIZE is not: start with torchrun, or unset it"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set in the environment and RANK is not"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK=1 and WORLD_SIZE=1 in the environment: expected a rank from 0 to 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 and WORLD_SIZE=0 in the environment: expected a rank from 0 to 0"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one in the environment: expected a whole number, 0 or more"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1 in the environment: expected a whole number, 0 or more"),
        (TORCHRUN | {"LOCAL_RANK": "x"}, "LOCAL_RANK=x in the environment: expected a whole number, 0 or more"),
    ],
)
def test_an_environment_that_is_no_place_is_one_line(
    given: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as refused:
        place(environment=given)
    assert f"{refused.value}".startswith(line)
    for name in (*TORCHRUN, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["data", "verify", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith(f"phys4d: error: {line}")


def test_ranks_need_a_place_to_meet() -> None:
    with pytest.raises(UserError, match="MASTER_ADDR is not set in the environment, and WORLD_SIZE is above 1"):
        environment.check_meeting_point({})
    with pytest.raises(UserError, match="MASTER_PORT=x in the environment"):
        environment.check_meeting_point({"MASTER_ADDR": "localhost", "MASTER_PORT": "x"})


def test_ranks_of_a_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert ProcessRank.from_environment() == ProcessRank(0, 1)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with pytest.raises(UserError, match="SLURM_PROCID=1 and SLURM_STEP_NUM_TASKS=1"):
        ProcessRank.from_environment()
