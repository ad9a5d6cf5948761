"""Open-Sora 1.2 in the coordinates of rectified flow: signs, timesteps, noise levels, captions, sampling."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.flow import sample
from phys4d.models.opensora import backbone as module
from phys4d.models.opensora.backbone import OpenSoraBackbone, published_shift
from phys4d.models.opensora.text import lengths_of
from phys4d.models.opensora.transformer import STDiT3

HEADS = 2


@pytest.fixture
def backbone() -> Iterator[OpenSoraBackbone]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = STDiT3(hidden_size=32, depth=1, num_heads=HEADS, caption_channels=12, model_max_length=6)
        for parameter in transformer.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        yield OpenSoraBackbone(transformer, (0, 1))


def captions() -> Tensor:
    text = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(3))
    text[0, 4:] = 0
    text[1, 1:] = 0
    return text


def test_velocity_is_the_first_half_of_the_output_with_its_sign_turned(backbone: OpenSoraBackbone) -> None:
    """Frames of 32 x 64 pixels at 24 a second, the first latent frame at timestep 0 and the others at 1000 sigma."""
    noisy, sigma, text = torch.randn(2, 4, 3, 4, 8), torch.tensor([0.7, 0.25]), captions()
    prediction = backbone(noisy, sigma, text)
    noised = torch.tensor([[False, True, True]] * 2)
    output = backbone.transformer(
        noisy, torch.tensor([700.0, 250.0]), text, torch.tensor([4, 1]), torch.full((2,), 24.0), (32, 64), noised
    )
    torch.testing.assert_close(prediction.velocity[:, :, 1:], -output[:, :4, 1:])
    assert (prediction.velocity[:, :, 0] == 0).all()
    assert [h.shape for h in prediction.hidden] == [(2, 24, 32)] * 2 and (backbone.width, backbone.patch) == (
        32,
        (1, 2, 2),
    )


def test_the_first_frame_is_not_read_as_noisy(backbone: OpenSoraBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    forward = backbone.transformer.forward
    monkeypatch.setattr(backbone.transformer, "forward", lambda *given: seen.append(given) or forward(*given))
    backbone(torch.randn(2, 4, 3, 4, 8), torch.tensor([0.7013, 0.25]), captions())
    assert seen[0][6].tolist() == [[False, True, True]] * 2
    torch.testing.assert_close(seen[0][1], torch.tensor([701.3, 250.0]))
    assert seen[0][4].tolist() == [24.0, 24.0] and seen[0][5] == (32, 64)


@pytest.mark.parametrize(
    ("size", "latents"), [((17, 480, 832), 5), ((33, 480, 832), 5), ((49, 720, 1280), 10), ((51, 720, 1280), 15),
                          ((1, 720, 1280), 1), ((13, 480, 832), 4)],
)  # fmt: skip
@pytest.mark.parametrize("steps", [30, 7])
def test_noise_levels_are_the_published_timesteps(
    backbone: OpenSoraBackbone, size: tuple[int, int, int], latents: int, steps: int
) -> None:
    """Number by number: t = 1 - i / steps moved by the square roots of the pixels over 512^2 and of the latents."""
    found = backbone.sigmas(steps, published_shift(size))
    ratio = math.sqrt(size[1] * size[2] / 512**2) * math.sqrt(latents)
    expected = []
    for i in range(steps):
        t = 1 - i / steps
        expected.append(ratio * t / (1 + (ratio - 1) * t))
    assert len(found) == steps + 1
    torch.testing.assert_close(found, torch.tensor([*expected, 0.0]), rtol=1e-6, atol=1e-7)


def test_training_levels_are_logit_normal_then_moved(backbone: OpenSoraBackbone) -> None:
    """At quantiles of a normal distribution: -1, 0 and 2 deviations."""
    u = torch.tensor([0.15865525, 0.5, 0.97724987])
    t = [1 / (1 + math.exp(-z)) for z in (-1, 0, 2)]
    expected = torch.tensor([3 * x / (1 + 2 * x) for x in t])
    torch.testing.assert_close(backbone.training_sigma(u, 3.0), expected, rtol=1e-5, atol=1e-6)
    ends = backbone.training_sigma(torch.tensor([0.0, 1.0]), 3.0)
    torch.testing.assert_close(ends, torch.tensor([0.02, 1.0]))


def test_sampling_is_the_published_loop(backbone: OpenSoraBackbone) -> None:
    """z moves by (t_i - t_(i + 1)) / 1000 times data - noise; the first frame is put back after every step."""
    noise, first, text, shift = torch.randn(2, 4, 3, 4, 8), torch.randn(2, 4, 1, 4, 8), captions(), 2.0
    noised, fps = torch.tensor([[False, True, True]] * 2), torch.full((2,), 24.0)
    times = [1000 * shift * t / (1 + (shift - 1) * t) for t in (1 - i / 5 for i in range(5))]
    z = torch.cat([first, noise[:, :, 1:]], 2)
    with torch.no_grad():
        for i, t in enumerate(times):
            v = backbone.transformer(z, torch.tensor([t, t]), text, lengths_of(text), fps, (32, 64), noised)[:, :4]
            z = z + v * (t - (times[i + 1] if i < 4 else 0.0)) / 1000
            z = torch.cat([first, z[:, :, 1:]], 2)
    found = sample(lambda x, s: backbone(x, s, text), first, noise, tuple(backbone.sigmas(5, shift).tolist()))
    assert (z - noise).abs().max() > 0.1
    torch.testing.assert_close(found, z, rtol=1e-4, atol=1e-4)


def test_a_caption_ends_where_its_last_token_does(backbone: OpenSoraBackbone) -> None:
    text = captions()
    text[0, 1] = 0  # a token of zeros within
    assert lengths_of(text).tolist() == [4, 1] and lengths_of(torch.zeros(1, 3, 2)).tolist() == [0]
    longer = torch.cat([captions(), torch.zeros(2, 5, 12)], 1)
    noisy, sigma = torch.randn(2, 4, 2, 4, 4), torch.tensor([0.5, 0.5])
    a, b = (backbone(noisy, sigma, tokens).velocity for tokens in (captions(), longer))
    torch.testing.assert_close(a, b)


def test_no_caption_is_the_learned_tokens_as_many_as_the_caption_has(backbone: OpenSoraBackbone) -> None:
    null = backbone.unconditional(captions())
    learned = backbone.transformer.y_embedder.y_embedding
    assert torch.equal(null[0, :4], learned[:4]) and torch.equal(null[1, :1], learned[:1])
    assert (null[0, 4:] == 0).all() and (null[1, 1:] == 0).all()


def test_all_ways_of_attention_agree(backbone: OpenSoraBackbone) -> None:
    noisy, sigma, text = torch.randn(2, 4, 3, 4, 8), torch.tensor([0.7, 0.25]), captions()
    plain = backbone(noisy, sigma, text).velocity
    backbone.use_attention("reference")
    assert {block.backend for block in backbone.blocks} == {"reference"}
    torch.testing.assert_close(backbone(noisy, sigma, text).velocity, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_attention_is_explained_for_the_shapes_dtype_and_gradients_of_training(
    backbone: OpenSoraBackbone, monkeypatch: pytest.MonkeyPatch, precision: Any, dtype: torch.dtype
) -> None:
    cpu = torch.device("cpu")
    assert backbone.explain_attention(24, 6, cpu)["spatial"] == "as the frames of a clip decide, once one was evaluated"
    backbone(torch.randn(2, 4, 3, 4, 8), torch.tensor([0.7, 0.25]), captions())
    asked: list[Any] = []
    monkeypatch.setattr(module, "explain", lambda *qkv, **how: asked.append((qkv, how)) or f"call {len(asked)}")
    backbone.precision = precision
    assert backbone.explain_attention(24, 6, cpu) == {
        "cross": "call 1", "spatial": "call 2", "temporal": "call 3", "left": {}
    }  # fmt: skip
    for (qkv, how), keys in zip(asked, (6, 24, 24), strict=True):
        assert [tuple(t.shape) for t in qkv] == [(1, 24, HEADS, 16), (1, keys, HEADS, 16), (1, keys, HEADS, 16)]
        assert all(t.dtype == dtype and t.requires_grad for t in qkv) and how["backend"] == "auto"
    assert all(how["grid"] == (3, 2, 4) for _, how in asked[1:])
    monkeypatch.undo()
    backbone.use_attention("flash3")
    with pytest.raises(ValueError, match="flash3"):
        backbone.explain_attention(25, 6, cpu)
    backbone.use_attention("auto")


def test_time_is_embedded_in_fp32_under_bf16(backbone: OpenSoraBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    conditions = backbone.transformer._conditions
    monkeypatch.setattr(backbone.transformer, "_conditions", lambda *given: seen.extend(r := conditions(*given)) or r)
    backbone.precision = "bf16"
    noisy, sigma, text = torch.randn(2, 4, 3, 4, 8), torch.tensor([0.7, 0.25]), captions()
    lower = backbone(noisy, sigma, text).velocity
    assert [tensor.dtype for tensor in seen] == [torch.float32] * 2 and lower.dtype == torch.float32
    backbone.precision = "fp32"
    exact = backbone(noisy, sigma, text).velocity
    assert 0 < (lower - exact).abs().max() < 0.1 * exact.abs().max()
