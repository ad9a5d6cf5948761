"""Hilbert's curve: it meets every cell once, one step at a time, and follows what the points do, not their scale."""

import pytest
import torch

from phys4d.kernels.geometry.clouds import curve


@pytest.mark.parametrize("dimensions", [3, 4])
def test_one_step_along_the_curve_is_one_step_in_space(dimensions: int) -> None:
    bits = 3
    grid = torch.cartesian_prod(*[torch.arange(1 << bits)] * dimensions)
    key = torch.zeros(len(grid), dtype=torch.int64)
    places = curve.unfolded(list(grid.unbind(1)), bits)
    for bit in range(bits - 1, -1, -1):
        for place in places:
            key = key << 1 | (place >> bit & 1)
    order = key.argsort()
    assert torch.equal(key[order], torch.arange(len(grid)))
    assert (grid[order].diff(dim=0).abs().sum(dim=1) == 1).all()


@pytest.mark.parametrize("dimensions", [3, 4])
def test_neighbours_along_the_curve_are_near_whatever_else_there_is(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(1, 20_000, dimensions, generator=generator)
    lengths = torch.tensor([20_000])

    def steps(scale: float) -> torch.Tensor:
        keys = curve.keys(cloud * scale, lengths)[0]
        rows = cloud[0, keys.argsort(stable=True)]
        return rows.diff(dim=0).norm(dim=1).nan_to_num(0, 0, 0).clamp(max=2).mean()

    near = 20_000 ** (-1 / dimensions)  # how far it is to the nearest, about
    assert steps(1.0) < 1.6 * near and steps(1e-20) == pytest.approx(steps(1.0).item(), rel=1e-2)
    cloud[0, 77] = 1e30
    assert steps(1.0) < 1.6 * near
    keys = curve.keys(cloud, lengths)
    assert ((keys >= 0) & (keys < curve.NOWHERE)).all()


def test_the_same_points_have_the_same_key_and_others_mostly_not() -> None:
    generator = torch.Generator().manual_seed(1)
    cloud = torch.randn(2, 1000, 3, generator=generator)
    cloud[:, 500:] = cloud[:, :500]
    keys = curve.keys(cloud, torch.tensor([1000, 1000]))
    assert torch.equal(keys[:, :500], keys[:, 500:])
    assert all(len(row.unique()) >= 499 for row in keys)
