"""Rollouts with random weights are timed with and without adapters, and by diffusers' own code."""

from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.benchmarks import rollouts
from phys4d.benchmarks.train_step import Asked
from phys4d.engine.distributed.parallel import Parallel

RUN = """
folder = "run"
stages = ["pretrain", "finetune", "reinforce"]
{init}
model = {{ {model} }}
[pretrain]
data = "data"
optimizer = {{ learning_rate = 1e-4 }}
loop = {{ steps = 1 }}
[finetune]
data = "data"
optimizer = {{ learning_rate = 1e-4 }}
loop = {{ steps = 1 }}
[reinforce]
data = "data"
steps = 3
stochastic_steps = 1
guidance = 2.0
optimizer = {{ learning_rate = 1e-4 }}
loop = {{ steps = 1 }}
"""


def measured(tmp_path: Path, size: tuple[int, int, int], init: str, model: str, *changes: str) -> dict[str, Any]:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(init=init, model=model))
    asked = Asked(rollouts.STAGE, size, 1, cached=True)
    return rollouts.measure(path, list(changes), None, asked, 2, 1, Parallel.alone())


def test_every_row_is_timed_or_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = rollouts.put

    def without_code_of_others(model: Any, *arguments: Any) -> None:
        put(model, *arguments)
        del model.backbone.accelerated

    monkeypatch.setattr(rollouts, "put", without_code_of_others)
    found = measured(tmp_path, (5, 32, 32), "", "width = 32, layers = 2, taps = [0, 1]")
    policy, backbone, stock = found["rows"]
    assert policy["rollouts_per_second"] == pytest.approx(2 / policy["seconds"][0]) and len(backbone["seconds"]) == 1
    assert stock == {"row": "diffusers", "refused": "this model is written here: diffusers has none"}
    text = rollouts.report(found)
    assert "2 clips of 5x32x32, 3 steps, guidance 2, fp32, cpu" in text and "| diffusers | refused: " in text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_are_of_one_model(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Drawn from one seed, all three give the same velocity up to their precision: adapters are still without effect,
    and the transformer's own code computes what our kernels do."""
    given: dict[str, torch.Tensor] = {}

    def kept(row: str, model: Any, *arguments: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        for name, parameter in sorted(model.backbone.transformer.named_parameters()):
            if ".lora_" not in name:
                parameter.normal_(0.0, 0.02)
        predict = rollouts.predictions(row, model)
        noisy, text = torch.randn(1, 8, 2, 4, 4), torch.randn(1, 12, 32)
        given[row] = predict(noisy, torch.tensor([0.5]), text, noisy[:, :, :1]).velocity
        return {"row": row, "seconds": [1.0]}

    monkeypatch.setattr(rollouts, "timed", kept)
    measured(tmp_path, (5, 64, 64), f'init = "{released}"', 'kind = "wan", taps = [0, 2]', f'precision="{precision}"')
    bound = 1e-5 if precision == "fp32" else 0.05
    for row in ("backbone", "diffusers"):
        difference = (given[row] - given["policy"]).norm() / given["policy"].norm()
        assert difference < bound, (row, difference)
