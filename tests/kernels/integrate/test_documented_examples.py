"""The examples of docs/use-the-attention.md run as they stand there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

PAGE = Path(__file__).parents[3] / "docs" / "use-the-attention.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_there_are_three_of_about_ten_lines():
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        assert len([line for line in example.splitlines() if line.strip()]) <= 10


def test_the_diffusers_pipeline(build, capsys):
    model, call = build("wan")

    def pipe(prompt):
        with torch.no_grad():
            return SimpleNamespace(frames=model(**call)[0])

    pipe.transformer = model
    processors = {name: id(module.processor) for name, module in model.named_modules() if hasattr(module, "processor")}
    names: dict = {"pipe": pipe}
    exec(EXAMPLES[0], names)
    assert names["video"].isfinite().all() and "modules swapped" in capsys.readouterr().out
    after = {name: id(module.processor) for name, module in model.named_modules() if hasattr(module, "processor")}
    assert processors == after


def test_any_model_in_plain_torch(capsys):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v)

    model = Model()
    exec(EXAMPLES[1], {"model": model, "x": torch.randn(2, 5, 16)})
    assert model.qkv.weight.grad.abs().sum() > 0 and "1" in capsys.readouterr().out


@pytest.mark.parametrize("grid", [(4, 5, 6)])
def test_a_transformer_of_your_own(grid):
    heads, count = 2, grid[0] * grid[1] * grid[2]
    qkv = nn.Linear(32, 3 * heads * 64)
    weights = {name: torch.ones(64, requires_grad=True) for name in ("q_weight", "k_weight")}
    names: dict = {"grid": grid, "heads": heads, "qkv": qkv, "x": torch.randn(2, count, 32), **weights}
    exec(EXAMPLES[2], names)
    assert names["y"].shape == (2, count, heads, 64)
    names["y"].square().sum().backward()
    assert qkv.weight.grad.isfinite().all()
