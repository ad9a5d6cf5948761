"""bf16 rounds matrix products and nothing that says where or when: timesteps, sigmas, modulation, RoPE tables."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phys4d.models.backbone import Precision
from phys4d.models.config import ModelConfig
from phys4d.models.interface import Prediction
from phys4d.models.world import create_model

SIGMA = torch.tensor([0.7013, 0.1001])  # timesteps 701.3 and 100.1, which bf16 rounds to 700 and 100


def seen(precision: Precision) -> tuple[dict[str, Any], Prediction, dict[str, Tensor]]:
    """What reaches the parts of the transformer in one evaluation, what comes out, and the gradients."""
    model = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)
    model.backbone.precision = precision
    transformer = model.backbone.transformer
    inputs: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, options: dict, output: Any) -> None:
            inputs[name] = (args, output)

        return hook

    for name in (
        "condition_embedder.timesteps_proj", "condition_embedder.time_embedder", "condition_embedder.time_proj", "rope",
        "blocks.1", "blocks.1.attn1.to_q", "blocks.1.ffn",
    ):  # fmt: skip
        transformer.get_submodule(name).register_forward_hook(note(name), with_kwargs=True)
    draw = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 192, 2, 4, 4, generator=draw)
    prediction = model.predict(model.noised(clean, noise, SIGMA), SIGMA, model.text(["a ball", "a box falls"]))
    (prediction.clean - clean)[:, :, 1:].square().mean().backward()
    gradients = {name: p.grad for name, p in transformer.named_parameters() if p.grad is not None}
    return inputs, prediction, gradients


def test_timesteps_modulation_and_rope_reach_the_transformer_in_fp32() -> None:
    exact, rounded = seen("fp32")[0], seen("bf16")[0]
    timesteps = rounded["condition_embedder.timesteps_proj"][0][0]
    assert timesteps.dtype == torch.float32 and 701.3 in [pytest.approx(t, abs=1e-3) for t in timesteps.tolist()]
    for name in exact:
        if not name.startswith("condition_embedder"):
            continue
        (ours,), (theirs,) = rounded[name][0][:1], exact[name][0][:1]
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs), name
        assert torch.equal(rounded[name][1], exact[name][1]), name
    modulation, rope = rounded["blocks.1"][0][2:4]
    assert modulation.dtype == torch.float32 and torch.equal(modulation, exact["blocks.1"][0][2])
    for ours, theirs in zip(rope, exact["rope"][1], strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


def test_matrix_products_are_bf16_and_what_comes_out_is_close_and_fp32() -> None:
    inputs, rounded, gradients = seen("bf16")
    _, exact, expected = seen("fp32")
    assert inputs["blocks.1.attn1.to_q"][1].dtype == inputs["blocks.1.ffn"][1].dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in (rounded.velocity, rounded.clean, *rounded.hidden))
    assert not torch.equal(rounded.velocity, exact.velocity)
    for ours, theirs in zip((rounded.velocity, *rounded.hidden), (exact.velocity, *exact.hidden), strict=True):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()
    assert gradients.keys() == expected.keys() and all(g.dtype == torch.float32 for g in gradients.values())
    for name in ("blocks.0.attn1.to_v.weight", "condition_embedder.time_proj.weight", "proj_out.weight"):
        assert (gradients[name] - expected[name]).norm() < 5e-2 * expected[name].norm(), name
