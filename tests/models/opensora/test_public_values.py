"""Numbers that the public Open-Sora 1.2 computed, of weights that a formula gives, beside ours.

`public_values.json` holds up to 16 numbers of each result, equally spaced, of a gradient its product with fixed
numbers, and says which revision was run and what was replaced in it. None of its code is here.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.opensora.backbone import OpenSoraBackbone, published_shift
from phys4d.models.opensora.codec import OpenSoraCodec, OpenSoraVAE
from phys4d.models.opensora.transformer import STDiT3
from tests.models.opensora.by_formula import filled, numbers

PUBLIC: dict[str, Any] = json.loads(Path(__file__).with_name("public_values.json").read_text())
LENGTHS = torch.tensor([4, 6])  # of captions
NOISED = torch.tensor([[False, True, True], [True, True, False]])
IMAGE = {"block_out_channels": [8, 8, 8, 16], "norm_num_groups": 4, "layers_per_block": 1}


def some(x: Tensor) -> list[float]:
    """At most 16 numbers, equally spaced."""
    flat = x.detach().flatten()
    return flat[:: len(flat) // 17 | 1][:16].tolist()


def equal(found: list[float], expected: list[float]) -> None:
    """Within 2e-6 of the largest: the public code attends and returns in fp32."""
    assert found == pytest.approx(expected, rel=0, abs=2e-6 * max(map(abs, expected)))


@pytest.fixture
def transformer() -> STDiT3:
    sizes = {"hidden_size": 32, "depth": 2, "num_heads": 2}
    made = STDiT3(**sizes, caption_channels=12, model_max_length=6, input_sq_size=40)
    filled(made, 0.3, kept=["rope.freqs"])
    made.y_embedder.y_embedding.data = numbers("null", 6, 12)
    return made


def evaluated(transformer: STDiT3, x: Tensor, noised: Tensor | None) -> Tensor:
    text, times = numbers("text", 2, 6, 12), torch.tensor([701.3, 20.7])
    output: Tensor = transformer(x, times, text, LENGTHS, torch.tensor([24.0, 8.0]), (32, 64), noised)
    return output


def test_outputs_of_the_transformer(transformer: STDiT3) -> None:
    x = numbers("x", 2, 4, 3, 4, 8)
    equal(some(evaluated(transformer, x, None)), PUBLIC["output, all noisy"])
    equal(some(evaluated(transformer, x, NOISED) * NOISED[:, None, :, None, None]), PUBLIC["output"])


def test_gradients_of_the_transformer(transformer: STDiT3) -> None:
    x = numbers("x", 2, 4, 3, 4, 8).requires_grad_()
    output = evaluated(transformer, x, NOISED) * NOISED[:, None, :, None, None]
    (output * numbers("weight", *output.shape)).sum().backward()
    assert x.grad is not None
    equal(some(x.grad), PUBLIC["gradient of latents"])
    gradients = {name: p.grad for name, p in transformer.named_parameters() if p.grad is not None}
    assert gradients.keys() == PUBLIC["gradients"].keys() and len(gradients) == 87
    for name, gradient in gradients.items():
        probe = gradient * numbers(f"{name} probe", *gradient.shape)
        expected = pytest.approx(PUBLIC["gradients"][name], rel=0, abs=2e-6 * float(probe.abs().sum()))
        assert float(probe.sum()) == expected, name


@pytest.mark.parametrize("size", PUBLIC["timesteps"])
def test_timesteps_at_480p_and_720p(transformer: STDiT3, size: str) -> None:
    """480x854 is the public 480p; its latents are those of 480x848, the size that clips have there and here."""
    frames, height, width = map(int, size.split("x"))
    levels = OpenSoraBackbone(transformer, ()).sigmas(30, published_shift((frames, height, width)))
    assert levels[-1] == 0 and (1000 * levels[:-1]).tolist() == pytest.approx(PUBLIC["timesteps"][size], rel=3e-7)


@torch.no_grad()
def test_a_guided_trajectory_of_the_public_scheduler(transformer: STDiT3) -> None:
    """Four steps at its own timesteps, of 5 latent frames of which the first is given, with guidance 3."""
    backbone = OpenSoraBackbone(transformer, ())
    sigmas = torch.tensor([*PUBLIC["trajectory"]["timesteps"], 0.0]) / 1000
    torch.testing.assert_close(sigmas, backbone.sigmas(4, published_shift((51, 32, 64))), rtol=3e-7, atol=0)
    noise, first, text = numbers("noise", 2, 4, 5, 4, 8), numbers("first", 2, 4, 1, 4, 8), numbers("text", 2, 6, 12)
    text[0, 4:] = 0
    latents, none = torch.cat([first, noise[:, :, 1:]], 2), backbone.unconditional(text)
    for sigma, after in pairwise(sigmas):
        towards, away = (backbone(latents, sigma.repeat(2), tokens).velocity for tokens in (text, none))
        latents = latents + (after - sigma).double() * (away + 3 * (towards - away)).double()
    equal(some(latents), PUBLIC["trajectory"]["latents"])


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 17, 33])
def test_latents_and_frames_of_the_autoencoder(frames: int) -> None:
    table = {"vae_2d": IMAGE, "vae_temporal": {"filters": 8, "blocks": 1, "groups": 4}}
    codec = OpenSoraCodec(table)
    codec._modules["vae"] = filled(OpenSoraVAE(table).eval(), 0.4)
    latents = codec.encode(numbers(f"video {frames}", 1, 3, frames, 16, 32))
    equal(some(latents), PUBLIC[f"latents of {frames} frames"])
    equal(some(codec.decode(latents)), PUBLIC[f"decoded {frames} frames"])
