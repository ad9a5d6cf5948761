"""The forms of 4D Chamfer: space-time, along tracks, per object."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch import Tensor

from phys4d.kernels.geometry import chamfer, chamfer_4d, chamfer_motion, chamfer_objects, chamfer_spacetime


def clip(seed: int, frames: int, points: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames, points, 3, generator=generator, dtype=torch.float64).to(dtype)


def counts(seed: int, frames: int, points: int) -> Tensor:
    return torch.randint(1, points + 1, (2, frames), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.1, 1.0, 9.0]))
def test_spacetime_is_chamfer_in_four_dimensions(seed: int, frames: int, others: int, speed: float) -> None:
    x, y = clip(seed, frames, 12), clip(seed + 1, others, 9)
    n, m = counts(seed, frames, 12), counts(seed + 1, others, 9)
    times = torch.arange(frames) / 8, torch.arange(others) / 6
    value = chamfer_spacetime(x, y, *times, speed=speed, x_lengths=n, y_lengths=m)
    for b in range(2):
        clouds = [
            np.concatenate([
                np.c_[cloud[b, t, : length[b, t]].numpy(), np.full(int(length[b, t]), speed * float(moment[t]))]
                for t in range(len(moment))
            ])
            for cloud, length, moment in ((x, n, times[0]), (y, m, times[1]))
        ]  # fmt: skip
        a, c = clouds
        expected = cKDTree(c).query(a)[0].mean() + cKDTree(a).query(c)[0].mean()
        assert value[b].item() == pytest.approx(expected, rel=1e-6)


def test_at_great_speed_spacetime_compares_frame_with_frame() -> None:
    x, y, times = clip(0, 3, 20), clip(1, 3, 20), torch.arange(3.0)
    torch.testing.assert_close(chamfer_spacetime(x, y, times, times, speed=1e5), chamfer_4d(x, y))
    late = chamfer_spacetime(x, x, times, times + 0.25, speed=2.0)  # nothing is nearer than one's own delay
    assert (late <= 1.0 + 1e-12).all() and (late > 0).all()


def test_spacetime_gradients_with_padding() -> None:
    x, y = clip(2, 2, 5), clip(3, 3, 4)
    n, m = counts(2, 2, 5), counts(3, 3, 4)
    x[torch.arange(5) >= n[..., None]] = torch.nan
    y[torch.arange(4) >= m[..., None]] = torch.nan
    grads = [c.clone().requires_grad_() for c in (x, y)]
    value = chamfer_spacetime(*grads, torch.arange(2) / 4, torch.arange(3) / 4, speed=1.0, x_lengths=n, y_lengths=m)
    value.sum().backward()
    for cloud, length in zip(grads, (n, m), strict=True):
        assert cloud.grad is not None and cloud.grad.isfinite().all()
        assert not cloud.grad[torch.arange(cloud.shape[2]) >= length[..., None]].any()
    times = torch.arange(2) / 4

    def function(a: Tensor, b: Tensor) -> Tensor:
        return chamfer_spacetime(a, b, times, times, speed=1.0)

    assert torch.autograd.gradcheck(function, [c[:, :2].nan_to_num(2.0).requires_grad_() for c in (x, y)])


def held(x: Tensor, y: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """By definition: partners of frame 0, distances of all frames."""
    values = []
    for b in range(len(x)):
        a, c = x[b, :, : n[b]], y[b, :, : m[b]]
        distances = (a[0, :, None] - c[0, None]).norm(dim=-1)
        there, back = distances.argmin(dim=1), distances.argmin(dim=0)
        each = (a - c[:, there]).norm(dim=-1).mean(dim=1) + (c - a[:, back]).norm(dim=-1).mean(dim=1)
        values.append(each.mean())
    return torch.stack(values)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), frames=st.integers(1, 4))
def test_partners_of_the_first_frame_are_held(seed: int, frames: int) -> None:
    x, y = clip(seed, frames, 12).requires_grad_(), clip(seed + 1, frames, 9).requires_grad_()
    n, m = counts(seed, 1, 12)[:, 0], counts(seed + 1, 1, 9)[:, 0]
    value, expected = chamfer_motion(x, y, x_lengths=n, y_lengths=m), held(x, y, n, m)
    torch.testing.assert_close(value, expected)
    weights = torch.tensor([1.0, -0.5], dtype=torch.float64)
    for got, want in zip(
        torch.autograd.grad((value * weights).sum(), (x, y)), torch.autograd.grad((expected * weights).sum(), (x, y)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, want)


def test_motion_sees_what_frames_alone_do_not() -> None:
    x = clip(0, 1, 30).expand(2, 4, 30, 3).clone()
    y = x.clone()
    y[:, 2:] = y[:, 2:].flip(2)  # the points change places: every frame looks the same
    assert (chamfer_4d(x, y) == 0).all() and (chamfer_motion(x, y) > 0.1).all()
    shift = torch.tensor([0.0, 0.3, 0.0])
    torch.testing.assert_close(chamfer_motion(x, x + shift * torch.tensor([0.0, 1, 1, 1])[:, None, None]),
                               torch.full((2,), 0.45, dtype=torch.float64))  # fmt: skip
    assert chamfer_motion(x, y[:, :, :0]).tolist() == [0, 0]


def test_held_partners_are_a_well_formed_op() -> None:
    from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_op, held_op

    x, y = (clip(seed, 1, size)[:, 0].requires_grad_() for seed, size in ((0, 6), (1, 5)))
    n, m = torch.tensor([6, 2]), torch.tensor([5, 3])
    _, nearest_in_y, nearest_in_x = chamfer_op(x, y, n, m, False, "auto")
    results = torch.library.opcheck(held_op._opoverload, (x, y, n, m, nearest_in_y, nearest_in_x, False, "auto"))
    assert set(results.values()) == {"SUCCESS"}


def test_every_object_counts_the_same() -> None:
    y = torch.cat((torch.zeros(1, 90, 3), torch.tensor([10.0, 0, 0]).expand(1, 10, 3)), dim=1)
    objects = torch.tensor([[4] * 90 + [7] * 10])
    x = torch.tensor([[[0.5, 0, 0], [10.0, 1, 0], [10.0, 2, 0]]])
    # object 4: 0.5 both ways; object 7: 1 to the nearest, 1.5 back on average
    torch.testing.assert_close(chamfer_objects(x, y, objects), torch.tensor([(1.0 + 2.5) / 2]))
    torch.testing.assert_close(chamfer_objects(x[:, :1], y, objects), torch.tensor([(1.0 + 2 * 9.5) / 2]))
    assert chamfer_objects(x, y, objects, cap=1.0).tolist() == [1.0]
    assert chamfer_objects(x, y[:, :0], objects[:, :0], cap=2.0).tolist() == [2.0]
    assert chamfer_objects(x, y[:, :0], objects[:, :0]).tolist() == [0.0]
    one = torch.zeros(1, 100, dtype=torch.int64)
    torch.testing.assert_close(chamfer_objects(x, y, one), chamfer(x, y))


def test_arguments_that_do_not_fit_are_named() -> None:
    x, times = clip(0, 3, 5), torch.arange(3.0)
    with pytest.raises(ValueError, match="speed: expected more than 0"):
        chamfer_spacetime(x, x, times, times, speed=0.0)
    with pytest.raises(ValueError, match=r"y_times: expected shape \[3\], got \[2\]"):
        chamfer_spacetime(x, x, times, times[:2], speed=1.0)
    with pytest.raises(ValueError, match=r"x_lengths: expected shape \[2\], got \[2, 3\]"):
        chamfer_motion(x, x, x_lengths=torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"y: expected shape \[2, 3, M, 3\]"):
        chamfer_motion(x, x[:, :2])
    with pytest.raises(ValueError, match=r"objects: expected shape \[2, 5\]"):
        chamfer_objects(x[:, 0], x[:, 0], torch.zeros(2, 4))
