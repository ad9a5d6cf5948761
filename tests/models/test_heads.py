"""The geometry heads: shapes and units, token order, and the modulation that starts as the identity."""

import math

import pytest
import torch

from phys4d.models.heads import ConvHead, GeometryHeads, HeadConfig, LinearHead, TimestepModulation
from phys4d.models.heads.tokens import at_size
from phys4d.models.interface import Grid

GRID = Grid(9, 24, 16, (4, 8, 8))


@pytest.mark.parametrize("kind", ["conv", "dpt", "linear"])
def test_outputs_have_the_clips_size_and_depth_is_positive(kind: str) -> None:
    heads = GeometryHeads(HeadConfig(kind=kind), 32, 2, 5, GRID)
    hidden = (torch.randn(2, 18, 32), torch.randn(2, 18, 32))
    depth, motion = heads(hidden, torch.randn(2, 5, 3, 6, 4), torch.tensor([0.05, 0.5]))
    assert depth.shape == (2, 9, 24, 16) and motion.shape == (2, 3, 8, 24, 16)
    assert (depth > 0).all()


@pytest.mark.parametrize("head", [ConvHead, LinearHead])
def test_a_token_reaches_its_own_pixels(head: type) -> None:
    grid = Grid(9, 64, 64, (4, 8, 8))
    module = head(8, 1, 5, 1, grid, 8)
    hidden = torch.randn(1, 3 * 8 * 8, 8)
    noisy = torch.randn(1, 5, 3, 16, 16)
    base = module((hidden,), noisy, torch.tensor([0.1]))
    changed = hidden.clone()
    changed[0, 64 + 5 * 8 + 2] = torch.randn(8)  # token (1, 5, 2): frames 1-4, rows 40-47, columns 16-23
    difference = (module((changed,), noisy, torch.tensor([0.1])) - base)[0, :, 0].abs()
    assert (difference[1:5, 40:48, 16:24] > 0).all()
    assert (difference[0] == 0).all() and (difference[5:] == 0).all()
    # 3x3 convolutions: 1 on tokens of 8 pixels, 3 on 4 pixels, 3 on 2 pixels (ConvHead) reach 26 pixels further
    assert (difference[:, : 40 - 26] == 0).all() and (difference[:, :, 24 + 26 :] == 0).all()


def test_modulation_starts_as_layer_norm() -> None:
    hidden = torch.randn(2, 5, 16)
    out = TimestepModulation(16)(hidden, torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(out, torch.nn.functional.layer_norm(hidden, (16,)))


def test_tokens_that_are_no_power_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match="12x12|6x6"):
        ConvHead(8, 1, 5, 1, Grid(5, 12, 12, (4, 6, 6)), 8)


def test_the_latents_reach_their_own_pixels_in_the_conv_head() -> None:
    grid = Grid(9, 64, 64, (4, 8, 8))
    module = ConvHead(8, 1, 5, 1, grid, 8)
    hidden, noisy, sigma = (torch.randn(1, 192, 8),), torch.randn(1, 5, 3, 16, 16), torch.tensor([0.1])
    changed = noisy.clone()
    changed[0, :, 1, 10, 5] += 1  # frames 1-4, rows 40-43, columns 20-23
    difference = (module(hidden, changed, sigma) - module(hidden, noisy, sigma))[0, :, 0].abs()
    assert (difference[1:5, 40:44, 20:24] > 0).all()
    assert (difference[0] == 0).all() and (difference[5:] == 0).all()
    assert (difference[:, : 40 - 18] == 0).all() and (difference[:, :, 24 + 18 :] == 0).all()


@pytest.mark.parametrize("kind", ["conv", "dpt", "linear"])
def test_the_heads_output_in_metres_and_pixels(kind: str) -> None:
    """y of the heads -> exp(mean + std y) metres; (du, dv) = pixels y, dz = metres y; the last frame has no motion."""
    config = HeadConfig(kind=kind, log_depth_mean=0.5, log_depth_std=0.2, motion_pixels=5.0, motion_metres=0.3)
    heads = GeometryHeads(config, 32, 2, 5, GRID)
    y = torch.randn(2, 9, 1, 24, 16)
    z = torch.randn(2, 9, 3, 24, 16)
    heads.depth.forward, heads.motion.forward = lambda *given: y, lambda *given: z  # type: ignore[method-assign]
    depth, motion = heads((), torch.zeros(0), torch.zeros(0))
    torch.testing.assert_close(depth, (0.5 + 0.2 * y[:, :, 0]).exp())
    for channel, scale in enumerate((5.0, 5.0, 0.3)):
        torch.testing.assert_close(motion[:, channel], scale * z[:, :8, channel])


def test_the_default_scale_is_that_of_a_room() -> None:
    config = HeadConfig()
    assert math.exp(config.log_depth_mean) == pytest.approx(2.2) and config.log_depth_std == 0.35
    assert config.motion_pixels == 3.0 and config.motion_metres == 0.1


@pytest.mark.parametrize(("kind", "low", "high"), [("conv", 3e-3, 0.03), ("linear", 1e-3, 0.02)])
def test_untrained_heads_draw_a_flat_wall_that_stands_still(kind: str, low: float, high: float) -> None:
    """Their last layer starts near zero: y deviates by about a hundredth, at any size of hidden tokens."""
    torch.manual_seed(0)
    heads = GeometryHeads(HeadConfig(kind=kind, width=48), 128, 2, 192, Grid(5, 32, 32, (4, 8, 8)))
    depth, motion = heads(
        tuple(30 * torch.randn(2, 32, 128) for _ in range(2)), torch.randn(2, 192, 2, 8, 8), torch.tensor([0.05, 0.1])
    )
    y = (depth.log() - math.log(2.2)) / 0.35
    assert low < y.square().mean().sqrt().item() < high
    for channel, scale in enumerate((3.0, 3.0, 0.1)):
        assert low < (motion[:, channel] / scale).square().mean().sqrt().item() < high, channel


@pytest.mark.parametrize("kind", ["conv", "dpt", "linear"])
def test_clips_of_another_size_are_read_by_the_same_weights(kind: str) -> None:
    """Away from the edges, larger frames with the same tokens everywhere give the same as at the size of the heads;
    what is learned about places is interpolated."""
    small_side, large_side, rim = (28, 32, 96) if kind == "dpt" else (8, 16, 24)  # as far as convolutions reach
    grid = Grid(5, 8 * small_side, 8 * small_side, (4, 8, 8))
    heads = GeometryHeads(HeadConfig(kind=kind, width=8), 32, 1, 5, grid)
    token, latent, sigma = torch.randn(32), torch.randn(5), torch.tensor([0.1])

    def read(side: int) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = token.expand(1, 2 * side * side, 32)
        return heads((hidden,), latent.view(1, 5, 1, 1, 1).expand(1, 5, 2, 2 * side, 2 * side), sigma)

    for small, large in zip(read(small_side), read(large_side), strict=True):
        assert large.shape[-2:] == (8 * large_side, 8 * large_side)
        inner = slice(rim, 8 * small_side - rim)
        torch.testing.assert_close(large[..., inner, inner], small[..., inner, inner], rtol=1e-4, atol=1e-4)


def test_an_embedding_of_places_keeps_their_share_of_the_image() -> None:
    place = torch.linspace(-1, 1, 8).view(8, 1, 1).expand(8, 8, 4)
    small, large = (at_size(place, side, side)[:, 0, 0] for side in (8, 16))
    assert torch.equal(small, place[:, 0, 0]) and at_size(place, 8, 8) is place
    torch.testing.assert_close(large[4:12].view(4, 2).mean(1), small[2:6], atol=0.01, rtol=0)
