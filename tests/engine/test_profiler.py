"""The profile of some steps: which steps, which ranks, which files, and what of it is no part of a step."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, train
from phys4d.engine.training.profiler import ProfileConfig, Profiler
from phys4d.engine.training.telemetry import Workload
from tests.engine.two_layers import ALONE, Settings, Two, run_two


def profiled(folder: Path, start: int, steps: int) -> Settings:
    return Settings(loop=LoopConfig(steps=4, log_every=1, profile=ProfileConfig(start=start, steps=steps)))


def test_a_profile_holds_the_steps_asked_for_and_no_others(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    lines, _ = run_two(folder, profiled(folder, 2, 2))
    written = sorted(path.name for path in (folder / "profile" / "two").iterdir())
    assert written == [f"steps-2-3.rank0.{name}" for name in ("costs.json", "table.txt", "trace.json.gz")]
    costs = json.loads((folder / "profile" / "two" / written[0]).read_text())
    shares = [cost["share"] for cost in costs]
    assert 0.5 < sum(shares) < 1 + 1e-9 and shares == sorted(shares, reverse=True)  # the largest 40 of them
    assert {"aten::addmm"} <= {cost["name"] for cost in costs} and not any("step" in cost["name"] for cost in costs)
    line = f"profile of steps 2 to 3: {folder / 'profile' / 'two'}; most of the time: {costs[0]['name']} "
    assert line in capsys.readouterr().err
    events = json.loads(gzip.decompress((folder / "profile" / "two" / written[2]).read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    assert {name for name in names if str(name).startswith("step ")} == {"step 2", "step 3"}
    assert "aten::addmm" in (folder / "profile" / "two" / written[1]).read_text()
    assert "PythonDispatchMode" not in names, "FLOPs are not counted in a step whose time is recorded"
    assert "speed.tflops" not in lines[2] and "speed.tflops" in lines[3]


def test_writing_a_profile_is_no_part_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Profiler, "finish", lambda self, number: 1000.0 if number == 2 else 0.0)
    seconds = [line["seconds"] for line in run_two(tmp_path / "run")[0]]
    assert seconds[1] < -900 and all(0 < s < 100 for s in (seconds[0], *seconds[2:]))


def test_without_the_key_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phys4d.engine.training.profiler.profile", None)
    run_two(tmp_path / "run")
    assert not (tmp_path / "run" / "profile").exists()


@pytest.mark.parametrize(("ranks", "files"), [("first", []), ("all", ["costs.json", "table.txt", "trace.json.gz"])])
def test_other_ranks_are_recorded_when_asked_for(tmp_path: Path, ranks: Any, files: list[str]) -> None:
    second = Parallel(1, 2, torch.device("cpu"), None)
    config = ProfileConfig(start=5, steps=1, ranks=ranks)
    with Profiler(config, tmp_path / "profile", second) as profiler:
        for number in (4, 5, 6):
            with profiler.step(number):
                torch.ones(3).sum()
            seconds = profiler.finish(number)
            assert 0 < seconds < 100 if number == 5 else seconds == 0
    written = sorted(path.name for path in tmp_path.glob("profile/*"))
    assert written == [f"steps-5-5.rank1.{name}" for name in files]


def test_on_cuda_the_history_of_the_memory_is_written_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the functions that need CUDA; a session that ends within the steps writes nothing."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: calls.append(options))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).write_text("snapshot"))
    device = Parallel(0, 1, torch.device("cuda"), None)
    for finishes in (True, False):
        folder = tmp_path / str(finishes)
        with Profiler(ProfileConfig(start=1, steps=1), folder, device) as profiler:
            with profiler.step(1):
                torch.ones(3).sum()
            if finishes:
                profiler.finish(1)
        wanted = ["costs.json", "memory.pickle", "table.txt", "trace.json.gz"] if finishes else []
        assert sorted(path.name for path in folder.glob("*")) == [f"steps-1-1.rank0.{name}" for name in wanted]
    begun, ended = {"max_entries": 200_000}, {"enabled": None}
    assert calls == [begun, "synchronize", ended, begun, ended]


def test_a_profile_that_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "run").mkdir()
    (folder / "profile").write_text("a file")
    settings = profiled(folder, 1, 1)
    refusal = pytest.raises(UserError, match=r"profile/two: the profile cannot be written: Not a dir")
    with Run.create(folder, settings, resume=False) as run, refusal:
        train(
            Two(Workload()), optimizer=settings.optimizer, loop=settings.loop, run=run, parallel=ALONE, resume=False
        )  # fmt: skip


def test_steps_that_do_not_exist_cannot_be_profiled() -> None:
    with pytest.raises(ValueError, match=r"profile: steps 3 to 5 of 4"):
        LoopConfig(steps=4, profile=ProfileConfig(start=3))
