"""The models' attention is that of phys4d.kernels, by any of its backends, and computes what diffusers' own does."""

import pytest
import torch

from phys4d.models.config import ModelConfig
from phys4d.models.world import create_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["auto", "reference", "sdpa"])
def test_every_attention_module_goes_through_our_kernels(backend: str) -> None:
    world = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)
    backbone = world.backbone
    backbone.use_attention(backend)
    report = backbone.accelerated
    attention = [path for path, module in backbone.transformer.named_modules() if path.endswith(("attn1", "attn2"))]
    assert len(attention) == 4 and set(attention) <= report.swapped.keys() and not report.left
    noisy, sigma, text = torch.randn(2, 192, 2, 4, 4), torch.tensor([0.3, 0.9]), world.text(["a ball", ""])
    ours = backbone(noisy, sigma, text)
    assert not report.passed  # no call went back to diffusers' own processor
    report.undo()
    stock = backbone(noisy, sigma, text)
    torch.testing.assert_close(ours.clean, stock.clean, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.hidden, stock.hidden, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_computes_attention_is_said_and_what_cannot_is_refused() -> None:
    backbone = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0).backbone
    assert backbone.explain_attention(8, 3, CPU)["self"].startswith("sdpa: ")
    backbone.use_attention("reference")
    assert backbone.explain_attention(8, 3, CPU)["cross"] == "reference: asked for by name"
    backbone.use_attention("triton")
    with pytest.raises(ValueError, match="backend 'triton' cannot serve this call: its kernels run on CUDA"):
        backbone.explain_attention(8, 3, CPU)
    with pytest.raises(ValueError, match="backend 'fastest'"):
        backbone.use_attention("fastest")
