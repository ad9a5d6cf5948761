"""The examples of docs/use-the-attention.md run as they stand there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from phys4d.kernels.attention import attention

PAGE = Path(__file__).parents[3] / "docs" / "use-the-attention.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_there_are_seven_of_about_ten_lines():
    assert len(EXAMPLES) == 7
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


def test_a_pipeline_whose_frames_share_a_timestep(build):
    model, call = build("wan")
    call["timestep"] = torch.tensor([0, 500, 250]).repeat_interleave(6).expand(2, -1)
    names: dict = {"pipe": SimpleNamespace(transformer=model)}
    with torch.no_grad():
        truth = model(**call)[0]
        exec(EXAMPLES[1], names)
        assert (model(**call)[0] - truth).abs().max() <= 1e-5 * truth.abs().max()
    assert "condition_embedder" in names["accelerated"].swapped


def test_any_model_in_plain_torch(capsys):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v)

    model = Model()
    exec(EXAMPLES[2], {"model": model, "x": torch.randn(2, 5, 16)})
    assert model.qkv.weight.grad.abs().sum() > 0 and "1" in capsys.readouterr().out


@pytest.mark.parametrize("grid", [(4, 5, 6)])
def test_a_transformer_of_your_own(grid):
    heads, count = 2, grid[0] * grid[1] * grid[2]
    qkv = nn.Linear(32, 3 * heads * 64)
    weights = {name: torch.ones(64, requires_grad=True) for name in ("q_weight", "k_weight")}
    names: dict = {"grid": grid, "heads": heads, "qkv": qkv, "x": torch.randn(2, count, 32), **weights}
    exec(EXAMPLES[3], names)
    assert names["y"].shape == (2, count, heads, 64)
    names["y"].square().sum().backward()
    assert qkv.weight.grad.isfinite().all()


def test_what_stands_between_two_layers():
    gate, scale, shift = torch.randn(3, 2, 16)
    index = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 1, 1, 1]])
    x, y = torch.randn(2, 2, 5, 16)
    names: dict = {"x": x, "y": y, "gate": gate, "scale": scale, "shift": shift, "index": index}
    exec(EXAMPLES[4], names)
    torch.testing.assert_close(names["stream"], x + gate[index] * y)
    out = nn.functional.layer_norm(names["stream"], (16,), eps=1e-6) * (1 + scale[index]) + shift[index]
    torch.testing.assert_close(names["out"], out)


def test_shared_heads_causal_sequences_and_masks():
    q, k, v = torch.randn(2, 256, 4, 8), torch.randn(2, 256, 2, 8), torch.randn(2, 256, 2, 8)
    words, bias = torch.rand(2, 256) < 0.5, torch.randn(1, 4, 256, 256, requires_grad=True)
    packed = torch.randn(300, 4, 8), torch.randn(300, 2, 8), torch.randn(300, 2, 8)
    names: dict = {"q": q, "k": k, "v": v, "words": words, "bias": bias, "packed": packed}
    exec(EXAMPLES[5], names | {"cu_seqlens": torch.tensor([0, 200, 300])}, names)
    assert names["y"].shape == (2, 256, 4, 8) and names["z"].shape == (300, 4, 8)
    names["y"].sum().backward()
    assert bias.grad.abs().sum() > 0


def test_scores_from_int8_products():
    q, k, v = torch.randn(3, 1, 70, 2, 64)
    names: dict = {"q": q, "k": k, "v": v, "attention": attention}
    exec(EXAMPLES[6], {"torch": torch}, names)
    truth = attention(q, k, v)
    assert 1e-3 < (names["y"] - truth).norm() / truth.norm() < 0.04
