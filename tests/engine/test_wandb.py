"""Log lines sent to Weights & Biases, by a stand-in for its package."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.run import Run
from phys4d.engine.run_folder.wandb_tracker import WeightsAndBiases, WeightsAndBiasesTracker
from phys4d.engine.training.loop import LoopConfig, train
from phys4d.engine.training.telemetry import Workload
from tests.engine.two_layers import ALONE, Settings, Two

STAND_IN = """
import json, pathlib
calls = pathlib.Path(__file__).with_name("calls.jsonl")
def note(call, /, **facts):
    with calls.open("a") as file:
        file.write(json.dumps([call, facts]) + "\\n")
class _Run:
    url = "https://wandb.example/run"
    def define_metric(self, name, **options): note("define_metric", name=name, **options)
    def log(self, values): note("log", **values)
    def finish(self): note("finish")
def init(**options):
    if options["project"] == "unreachable":
        raise RuntimeError("no network\\nand a traceback")
    note("init", **options)
    return _Run()
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for the package, which writes its calls into the file returned."""
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield package / "calls.jsonl"
    sys.modules.pop("wandb", None)


def tracked(folder: Path, settings: Any, resume: bool, steps: int, track: Any) -> None:
    with Run.create(folder, settings, resume=resume) as run:
        run.track(track(run))
        loop = LoopConfig(steps=steps, log_every=1)
        train(Two(Workload()), optimizer=settings.optimizer, loop=loop, run=run, parallel=ALONE, resume=resume)


def test_weights_and_biases_gets_the_lines_and_a_resumed_run_goes_on(wandb: Path, tmp_path: Path) -> None:
    config = WeightsAndBiases(project="p", tags=("a",), mode="offline")
    for resume, steps in ((False, 2), (True, 3)):
        tracked(
            tmp_path / "run", Settings(), resume, steps, lambda run: WeightsAndBiasesTracker(config, run, Settings())
        )  # fmt: skip
    calls = [json.loads(line) for line in wandb.read_text().splitlines()]
    first, second = (facts for name, facts in calls if name == "init")
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["mode"] == "offline"
    assert first["dir"] == str(tmp_path / "run") and first["config"]["loop"]["steps"] == 4
    logged = [facts for name, facts in calls if name == "log"]
    assert [facts["two/step"] for facts in logged] == [1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["two/loss"] == lines[0]["loss"] and logged[0]["two/memory.peak"] == lines[0]["memory.peak"]
    assert [name for name, _ in calls].count("finish") == 2
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["wandb"] == {"id": first["id"], "project": "p", "url": "https://wandb.example/run"}


def test_weights_and_biases_that_does_not_start_is_one_line(wandb: Path, tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", Settings(), resume=False) as run:
        with pytest.raises(UserError, match=r"^log.wandb: the run cannot be started: no network: or set mode = .off"):
            WeightsAndBiasesTracker(WeightsAndBiases(project="unreachable"), run, Settings())
        run.writes = False
        WeightsAndBiasesTracker(WeightsAndBiases(project="p"), run, Settings()).scalars("two", 1, {"loss": 1.0})
    assert not wandb.exists()
