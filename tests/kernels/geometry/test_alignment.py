"""Umeyama: undoes motions, finds least squares, never reflects, and is defined where points leave it open."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels.geometry import chamfer_4d, umeyama


def motion(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    rotation = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    shift = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return 0.2 + 3 * torch.rand(2, generator=generator, dtype=torch.float64), rotation, shift


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.booleans(), st.integers(3, 40), st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_motion_is_found_whatever_is_not_valid(seed: int, scaled: bool, points: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, points + 5, 3, generator=generator, dtype=torch.float64) * size
    scale, rotation, shift = motion(generator)
    scale = scale if scaled else torch.ones_like(scale)
    y = scale[:, None, None] * x @ rotation.mT + shift[:, None]
    valid = torch.ones(2, points + 5, dtype=torch.bool)
    valid[:, 2:7] = False
    x[:, 2:5], y[:, 4:7] = torch.nan, 1e9
    fit = umeyama(x, y, valid, scaled=scaled)
    torch.testing.assert_close(fit.scale, scale, rtol=1e-6, atol=0)
    torch.testing.assert_close(fit.rotation, rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(fit(x)[valid], y[valid], rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("scaled", [False, True])
def test_nothing_near_it_fits_better(scaled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 30, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    fit = umeyama(x, y, scaled=scaled)
    best = (fit(x) - y).square().mean(dim=(1, 2))
    for _ in range(50):
        spin = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) * 0.03
        turned = fit.rotation @ torch.matrix_exp(spin - spin.mT)
        change = 0.03 * torch.randn(2, generator=generator, dtype=torch.float64)
        scale = fit.scale * (1 + change) if scaled else fit.scale
        shift = fit.translation + 0.03 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        other = fit._replace(scale=scale, rotation=turned, translation=shift)
        assert ((other(x) - y).square().mean(dim=(1, 2)) > best).all()


def test_a_mirror_image_is_turned_not_mirrored() -> None:
    x = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fit = umeyama(x, x * torch.tensor([1, 1, -1]), scaled=True)
    torch.testing.assert_close(torch.linalg.det(fit.rotation), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(fit.rotation @ fit.rotation.mT, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert (fit.scale > 0).all()


def test_flat_and_straight_clouds_still_fit() -> None:
    generator = torch.Generator().manual_seed(2)
    scale, rotation, shift = motion(generator)
    for flatten in ([1, 1, 0], [1, 0, 0]):
        x = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64) * torch.tensor(flatten)
        y = scale[:, None, None] * x @ rotation.mT + shift[:, None]
        fit = umeyama(x, y, scaled=True)
        torch.testing.assert_close(fit(x), y)
        torch.testing.assert_close(torch.linalg.det(fit.rotation), torch.ones(2, dtype=torch.float64))


def test_a_cloud_in_one_place_is_moved_and_no_cloud_is_left_alone() -> None:
    x = torch.full((1, 7, 3), 0.1)
    y = x + torch.tensor([1.0, 2.0, 3.0])
    for target in (y, y + torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0))):
        fit = umeyama(x, target, scaled=True)
        assert fit.scale.tolist() == [1.0] and torch.equal(fit.rotation[0], torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(fit(x).mean(dim=1), target.mean(dim=1))
    for none in (umeyama(x, y, torch.zeros(1, 7, dtype=torch.bool)), umeyama(x[:, :0], y[:, :0])):
        assert torch.equal(none(x), x)


def test_gradients_pass_through_the_motion() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 2, 6, 3, generator=generator, dtype=torch.float64)
    fit = umeyama(x[:, 0], y[:, 0], scaled=True)
    assert torch.autograd.gradcheck(lambda points: chamfer_4d(fit(points), y), x.requires_grad_())


def test_valid_points_must_be_numbers() -> None:
    x = torch.randn(1, 5, 3)
    y = x.clone()
    y[0, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="y: expected finite points where valid"):
        umeyama(x, y)
