"""Steps of a stage with random weights, measured as in a run."""

from pathlib import Path

import pytest

from phys4d.benchmarks import train_step
from phys4d.engine.distributed.parallel import Parallel

SIZE = (5, 32, 32)
RUN = """
folder = "run"
stages = ["finetune"]
model = { width = 64, layers = 4, taps = [1, 3] }
[finetune]
data = "data"
batch = 2
optimizer = { learning_rate = 1e-4 }
loop = { steps = 1 }
"""


@pytest.fixture
def run_toml(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_the_steps_of_a_stage_are_timed_and_their_largest_costs_named(
    run_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "WARM_UP", 1)
    monkeypatch.setattr(train_step, "PROFILED", 1)
    asked = train_step.Asked("finetune", SIZE, 2, cached=True)
    found = train_step.measure(run_toml, ["finetune.rank=4"], None, asked, Parallel.alone())
    assert found["steps"] == 2 and found["clips"] == 2 and found["tokens"] == 32 and found["seconds"] > 0
    assert len(found["loss"]) == 4 and len(found["costs"]) == 10 and found["predicted"] is None
    text = train_step.report(found)
    assert "latents given, 2 in a step, 1 x cpu" in text and f"| {found['costs'][4]['name']} |" in text
