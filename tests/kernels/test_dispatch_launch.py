"""Launches: grids that are empty, too large, or whole; strides in units of their alignment."""

import pytest
import torch

from phys4d.kernels.dispatch import aligned, aligned_strides, launch

TENSOR = torch.zeros(1)


class Kernel:
    """Records its launches as Triton's kernels get them."""

    __name__ = "recorded"

    def __init__(self):
        self.launches = []

    def run(self, *args, grid, warmup, **options):
        assert not warmup
        self.launches.append((grid, args, options))


def test_a_kernel_gets_its_grid_arguments_and_options():
    kernel = Kernel()
    launch(kernel, 3, TENSOR, "x", BLOCK=8, num_warps=4)
    launch(kernel, (2, 65_535, 1), TENSOR)
    assert kernel.launches == [
        ((3,), (TENSOR, "x"), {"BLOCK": 8, "num_warps": 4}),
        ((2, 65_535, 1), (TENSOR,), {}),
    ]


@pytest.mark.parametrize("grid", [0, (0,), (4, 0), (4, 2, 0)])
def test_an_empty_grid_launches_nothing(grid):
    kernel = Kernel()
    launch(kernel, grid, TENSOR)
    assert not kernel.launches


@pytest.mark.parametrize("grid", [1 << 31, (1 << 31, 1), (1, 65_536), (1, 1, 65_536)])
def test_a_grid_that_cuda_does_not_take_is_refused(grid):
    with pytest.raises(ValueError, match="recorded: a grid of .* at most 2147483647 along the first axis and 65535"):
        launch(Kernel(), grid)


def test_the_largest_grid_is_launched():
    kernel = Kernel()
    launch(kernel, (1 << 31) - 1, TENSOR)
    assert kernel.launches


@pytest.mark.parametrize(
    ("strides", "expected"),
    [([64, 32, 0], (16, [4, 2, 0])), ([24, 8], (8, [3, 1])), ([72, 5], (1, [72, 5])), ([0, 0], (16, [0, 0]))],
)
def test_strides_come_in_units_of_the_largest_power_of_two_that_divides_them(strides, expected):
    assert aligned(strides) == expected


def test_the_strides_of_batch_token_and_head_are_taken():
    x, y = torch.empty(2, 3, 4, 12), torch.empty(2, 3, 4, 20)[..., :12]
    assert aligned_strides(x, y) == (4, [36, 12, 3, 60, 20, 5])
