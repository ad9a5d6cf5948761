"""Run folders: one run and one process each; metrics without gaps or duplicates after a resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from phys4d.engine.config import Config, load_toml
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.provenance import peak_rss_mb, provenance
from phys4d.engine.run_folder.run import Run
from phys4d.engine.storage import replace_text


class Settings(Config):
    rate: float = 0.5
    name: str = "a"


def lines(folder: Path) -> list[tuple[str, int, float]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(entry["stage"], entry["step"], entry["loss"]) for entry in entries]


def test_a_run_folder_holds_configuration_provenance_metrics_and_events(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with Run.create(folder, Settings(rate=0.25), resume=False) as run:
        run.log("finetune", 1, {"loss": 2.0, "ratio": math.nan})
        assert lines(folder) == [("finetune", 1, 2.0)]  # on the disk at once
    assert load_toml(folder / "config.toml", Settings) == Settings(rate=0.25)
    assert json.loads((folder / "metrics.jsonl").read_text())["ratio"] is None
    record = json.loads((folder / "provenance.json").read_text())
    assert {
        "git_revision",
        "phys4d",
        "torch",
        "triton",
        "python",
        "cpu",
        "cores",
        "gpus",
        "date",
    } <= record.keys()
    events = EventAccumulator(str(folder / "tensorboard" / "finetune")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0)]


def test_a_resumed_run_has_no_gaps_and_no_doubles(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", Settings(), resume=False) as run:
        for step in range(1, 6):
            run.log("pretrain", step, {"loss": step})
        for step in range(1, 5):
            run.log("finetune", step, {"loss": step})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"stage": "finetune", "ste')  # a kill in the middle of a line
    with Run.create(tmp_path / "run", Settings(), resume=True) as run:
        run.resume_at("finetune", 2)
        run.log("finetune", 3, {"loss": 30})
    pretrain = [("pretrain", step, step) for step in range(1, 6)]
    assert lines(tmp_path / "run") == [*pretrain, ("finetune", 1, 1), ("finetune", 2, 2), ("finetune", 3, 30)]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "finetune")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 30)]
    assert len(json.loads((tmp_path / "run" / "provenance.json").read_text())["resumed"]) == 1


def test_folders_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"run: no run to resume \(it has no config\.toml\): start it without --resume"
    ):
        Run.create(folder, Settings(), resume=True)
    with Run.create(folder, Settings(), resume=False):
        with pytest.raises(
            UserError, match="run: holds a run already: --resume goes on with it, or choose a new folder"
        ):
            Run.create(folder, Settings(), resume=False)
        with pytest.raises(UserError, match="run: another process is using this folder"):
            Run.create(folder, Settings(), resume=True)
    changed = r"name: \"a\" -> \"b\", rate: 0\.5 -> 0\.1"
    message = rf"config\.toml: the run was started with another configuration: {changed}: resume with"
    with pytest.raises(UserError, match=message):
        Run.create(folder, Settings(name="b", rate=0.1), resume=True)
    Run.create(folder, Settings(), resume=True).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run: cannot write the run folder: Not a directory"):
        Run.create(tmp_path / "file" / "run", Settings(), resume=False)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.write_text(""), "is a file, a run needs a folder: choose another"),
        (lambda path: path.symlink_to("away"), "is a link to away, which is not there: make that folder first"),
        (lambda path: path.symlink_to("run"), "is a link to run, which is not there: make that folder first"),
        (lambda path: path.symlink_to(__file__), "is a file, a run needs a folder: choose another"),
    ],
)
def test_a_place_that_cannot_become_a_run_folder(tmp_path: Path, make: Callable[[Path], Any], line: str) -> None:
    make(tmp_path / "run")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        Run.create(tmp_path / "run", Settings(), resume=False)
    assert str(caught.value) == f"{tmp_path}/run: {line}"
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_the_disk_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write the run folder: File name too long$"):
        Run.create(tmp_path / ("x" * 300), Settings(), resume=False)


def test_a_link_to_a_folder_and_the_working_directory_hold_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with Run.create(tmp_path / "link", Settings(), resume=False) as run:
        run.log("a", 1, {"loss": 1.0})
    assert (tmp_path / "link").is_symlink() and lines(tmp_path / "there") == [("a", 1, 1.0)]
    monkeypatch.chdir(tmp_path)
    with Run.create(Path("."), Settings(), resume=False) as run:
        run.log("a", 1, {"loss": 2.0})
    assert lines(tmp_path) == [("a", 1, 2.0)]
    Run.create(tmp_path, Settings(), resume=True).close()


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Run.create(tmp_path / "run", Settings(), resume=False) as run:
        run.resume_at("a", 0)
        run.log("a", 1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_provenance_names_this_checkout() -> None:
    record = provenance()
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] and record["cores"] >= 1 and record["cpu"]
    assert record["git_revision"] is None or len(record["git_revision"].removesuffix("-dirty")) == 40


def test_peak_memory_grows_with_what_is_touched() -> None:
    held = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    resident = int(held.split()[1]) / 1024
    block = bytearray(b"x") * (80 << 20)
    assert len(block) == 80 << 20 and resident + 79 < peak_rss_mb() < 20 * resident


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        replace_text(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_does_not_say_where_things_lie_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["/opt/bin/phys4d", "train", "/home/me/run.toml", "--set", "init=/data/models/wan", "runs/demo", "a/b"]
    monkeypatch.setattr("sys.argv", arguments)
    assert provenance()["command"] == "phys4d train run.toml --set init=wan runs/demo a/b"
