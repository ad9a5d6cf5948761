"""What surrounds the Wan transformer: timesteps per token, widths, and the parts of tokens that ranks hold."""

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from phys4d.models.wan import backbone as module
from phys4d.models.wan.backbone import WanBackbone


@pytest.fixture
def small() -> WanBackbone:
    """Patches of 1 x 2 x 3 latents, three heads of 16 channels, two blocks."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 3), num_attention_heads=3, attention_head_dim=16, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=16,
    )  # fmt: skip
    return WanBackbone(transformer, (0, 1))


def test_width_and_patch_are_the_transformers(small: WanBackbone) -> None:
    assert (small.width, small.patch) == (48, (1, 2, 3))


def test_a_token_has_a_thousand_times_its_clips_sigma_and_the_first_frame_zero(small: WanBackbone) -> None:
    """Two clips of 3 x 4 x 6 latents are 3 x 2 x 2 tokens each."""
    steps = small.token_timesteps(torch.Size([2, 4, 3, 4, 6]), torch.tensor([0.7, 0.25], dtype=torch.float64))
    assert steps.dtype == torch.float32
    torch.testing.assert_close(steps, torch.tensor([[0.0] * 4 + [700.0] * 8, [0.0] * 4 + [250.0] * 8]))


def test_the_prediction_is_the_transformers_output(small: WanBackbone) -> None:
    noisy, sigma, text = torch.randn(2, 4, 3, 4, 6), torch.tensor([0.7, 0.25]), torch.randn(2, 3, 8)
    steps = torch.tensor([[0.0] * 4 + [700.0] * 8, [0.0] * 4 + [250.0] * 8])
    prediction = small(noisy, sigma, text)
    expected = small.transformer(noisy, steps, text).sample
    torch.testing.assert_close(prediction.velocity[:, :, 1:], expected[:, :, 1:])
    assert [h.shape for h in prediction.hidden] == [(2, 12, 48)] * 2


def test_tokens_are_gathered_where_ranks_divide_them_but_after_the_last_block(
    small: WanBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.zeros(1, 6, 48)
    assert small.whole(0, tokens) is tokens and small.whole(1, tokens) is tokens
    asked: list[Any] = []
    monkeypatch.setattr(module.Parts, "of", lambda *given: given)
    monkeypatch.setattr(module, "gathered", lambda part, parts: asked.append(parts) or torch.cat([part, part], 1))
    small.token_timesteps(torch.Size([1, 4, 3, 4, 6]), torch.ones(1))
    small._group = "ranks"  # type: ignore[assignment]
    assert small.whole(0, tokens).shape == (1, 12, 48) and asked == [("ranks", (3, 2, 2), None)]
    assert small.whole(1, tokens) is tokens and len(asked) == 1


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_attention_is_explained_for_the_shapes_dtype_and_gradients_of_training(
    small: WanBackbone, monkeypatch: pytest.MonkeyPatch, precision: Any, dtype: torch.dtype
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "explain", lambda *qkv, backend: asked.append((qkv, backend)) or f"call {len(asked)}")
    small.precision = precision
    said = small.explain_attention(12, 5, torch.device("cpu"))
    assert said == {"self": "call 1", "cross": "call 2", "left": small.accelerated.left}
    for (qkv, backend), keys in zip(asked, (12, 5), strict=True):
        assert [tuple(t.shape) for t in qkv] == [(1, 12, 3, 16), (1, keys, 3, 16), (1, keys, 3, 16)]
        assert all(t.dtype == dtype and t.requires_grad for t in qkv) and backend == "auto"
