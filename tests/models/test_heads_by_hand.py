"""The heads' layers in numbers: modulation, residual units, sizes, what is summed and where it goes."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from phys4d.models.heads import (
    ConvHead,
    DPTHead,
    GeometryHeads,
    HeadConfig,
    LinearHead,
    ResidualUnit,
    TimestepModulation,
)
from phys4d.models.interface import Grid

GRID = Grid(5, 16, 24, (4, 8, 8))  # 2 x 2 x 3 tokens


def numbers(*shape: int, seed: int = 6) -> Tensor:
    """Standard normal numbers, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: Any) -> Any:
    """With weights that are nowhere zero or one."""
    draw = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape, generator=draw)
    return module


def modulated(modulation: TimestepModulation, hidden: Tensor, sigma: Tensor) -> Tensor:
    """32 rates from 1 to e^5; sines, cosines and sigma itself give scale - 1 and shift."""
    rates = [math.exp(5 * k / 31) for k in range(32)]
    width = hidden.shape[-1]
    out = []
    for tokens, s in zip(hidden, sigma.tolist(), strict=True):
        features = [math.sin(s * r) for r in rates] + [math.cos(s * r) for r in rates] + [s]
        both = modulation.project.weight @ torch.tensor(features) + modulation.project.bias
        centred = tokens - tokens.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        out.append(normed * (1 + both[:width]) + both[width:])
    return torch.stack(out)


def test_the_modulation() -> None:
    modulation = randomised(TimestepModulation(6))
    hidden, sigma = numbers(2, 5, 6), torch.tensor([0.05, 0.7])
    torch.testing.assert_close(modulation(hidden, sigma), modulated(modulation, hidden, sigma), rtol=1e-3, atol=1e-4)


def refined(unit: ResidualUnit, x: Tensor) -> Tensor:
    first, second = unit.convolutions
    y = F.conv2d(F.gelu(x), first.weight, first.bias, padding=1)
    return x + F.conv2d(F.gelu(y), second.weight, second.bias, padding=1)


def test_the_residual_unit() -> None:
    unit, x = randomised(ResidualUnit(3)), numbers(2, 3, 4, 5)
    torch.testing.assert_close(unit(x), refined(unit, x))


def test_the_linear_head_reads_the_last_tapped_layer() -> None:
    """A token's outputs are its frames x channels x rows x columns; the first token frame keeps its last frame."""
    head = randomised(LinearHead(6, 2, 5, 3, GRID, 8))
    hidden, sigma = (numbers(2, 12, 6), numbers(2, 12, 6, seed=7)), torch.tensor([0.05, 0.7])
    out = head(hidden, torch.zeros(2, 5, 2, 4, 6), sigma)  # of the latents, the sizes alone
    values = modulated(head.modulation, hidden[1], sigma) @ head.project.weight.T + head.project.bias
    assert out.shape == (2, 5, 3, 16, 24)
    for frame in range(5):
        for y, x in ((0, 0), (7, 8), (8, 23), (15, 16)):
            t, k = (frame + 3) // 4, (frame + 3) % 4
            token = (t * 2 + y // 8) * 3 + x // 8
            expected = values[:, token].view(2, 4, 3, 8, 8)[:, k, :, y % 8, x % 8]
            torch.testing.assert_close(out[:, frame, :, y, x], expected, rtol=1e-3, atol=1e-3)


def test_the_conv_head() -> None:
    """Tokens of all taps are summed, their place is added, then twice doubled and refined, latents joining in first."""
    head = randomised(ConvHead(6, 2, 5, 3, GRID, 16))
    hidden, sigma = (numbers(2, 12, 6), numbers(2, 12, 6, seed=7)), torch.tensor([0.05, 0.7])
    noisy = numbers(2, 5, 2, 4, 6)
    out = head(hidden, noisy, sigma)
    assert out.shape == (2, 5, 3, 16, 24)
    total = torch.zeros(2, 12, 4 * 32)
    for k in (0, 1):
        project = head.projections[k]
        total += modulated(head.modulations[k], hidden[k], sigma) @ project.weight.T + project.bias
    joined = torch.einsum("bcthw,dc->bthwd", noisy, head.edges.weight.flatten(1)) + head.edges.bias
    for frame in range(5):
        t, k = (frame + 3) // 4, (frame + 3) % 4
        y = (total.view(2, 2, 2, 3, 4, 32)[:, t, :, :, k] + head.place).permute(0, 3, 1, 2)
        for n, (doubling, unit) in enumerate(zip(head.doubling[:2], head.refining, strict=True)):
            y = F.pixel_shuffle(F.gelu(F.conv2d(y, doubling.weight, doubling.bias, padding=1)), 2)
            if n == 0:
                y = y + joined.view(2, 2, 4, 6, 4, 16)[:, t, :, :, k].permute(0, 3, 1, 2)
            y = refined(unit, y)
        last = head.doubling[2]
        y = F.pixel_shuffle(F.conv2d(y, last.weight, last.bias, padding=1), 2)
        torch.testing.assert_close(out[:, frame], y, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("side", "width", "sizes"),
    [
        (8, 48, [96, 48, 24, 3]), (16, 48, [96, 48, 24, 12, 3]), (16, 16, [32, 16, 8, 8, 3]), (4, 16, [32, 16, 3]),
    ],
)  # fmt: skip
def test_channels_halve_with_every_doubling_down_to_eight(side: int, width: int, sizes: list[int]) -> None:
    head = ConvHead(6, 2, 5, 3, Grid(5, 2 * side, 3 * side, (4, side, side)), width)
    assert [head.doubling[0].in_channels, *(c.out_channels // 4 for c in head.doubling)] == sizes
    assert [unit.convolutions[0].in_channels for unit in head.refining] == sizes[1:-1]
    assert head.place.shape == (2, 3, 2 * width) and (head.place == 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (2, 2), (12, 12)])
def test_tokens_that_it_cannot_double_into_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match=r"needs a square of 4, 8, 16, \.\.\. pixels"):
        ConvHead(6, 1, 5, 1, Grid(5, 2 * rows, 2 * columns, (4, rows, columns)), 8)


def test_the_first_weights_of_the_last_layer_are_small() -> None:
    """Linear: Xavier's uniform range times 0.01, no bias. Conv and DPT: a tenth of torch's 1 / sqrt(inputs)."""
    heads = GeometryHeads(HeadConfig(kind="linear"), 96, 1, 5, GRID)
    assert isinstance(heads.depth, LinearHead) and isinstance(heads.motion, LinearHead)
    for head, channels in ((heads.depth, 1), (heads.motion, 3)):
        bound = 0.01 * math.sqrt(6 / (96 + 256 * channels))
        assert 0.98 * bound < head.project.weight.abs().max() <= bound and (head.project.bias == 0).all()
    for kind, type_ in (("conv", ConvHead), ("dpt", DPTHead)):
        heads = GeometryHeads(HeadConfig(kind=kind, width=48), 32, 1, 5, GRID)  # type: ignore[arg-type]
        for head, channels in ((heads.depth, 1), (heads.motion, 3)):
            assert isinstance(head, type_) and head.doubling[-1].out_channels == 4 * channels
            bound = 0.1 / math.sqrt(24 * 9)
            assert 0.97 * bound < head.doubling[-1].weight.abs().max() <= bound
            assert 0 < head.doubling[-1].bias.abs().max() <= bound
            assert head.doubling[0].weight.abs().max() > 0.97 / math.sqrt(96 * 9)


def test_the_seed_is_0_where_none_is_given() -> None:
    first, second, other = (
        GeometryHeads(HeadConfig(), 32, 1, 5, GRID, *seed).depth.edges.weight for seed in ((), (0,), (1,))
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_what_is_computed_is_not_saved() -> None:
    names = GeometryHeads(HeadConfig(), 32, 1, 5, GRID).state_dict()
    assert not [name for name in names if name.endswith(("rate", "motion_scale"))]


@pytest.mark.parametrize(
    ("name", "default", "least", "refused"),
    [
        ("width", 48, 8, 7), ("log_depth_std", 0.35, 0.01, 0), ("motion_pixels", 3.0, 0.01, 0),
        ("motion_metres", 0.1, 0.01, 0),
    ],
)  # fmt: skip
def test_a_number_has_its_default_and_its_range(name: str, default: float, least: float, refused: float) -> None:
    assert getattr(HeadConfig(), name) == default and getattr(HeadConfig(**{name: least}), name) == least
    with pytest.raises(ValidationError, match=name):
        HeadConfig(**{name: refused})
