"""Chamfer against scipy, ragged and empty clouds, gradients, invariances."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import chamfer, chamfer_4d, nearest, pack

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])


def scipy_chamfer(x: np.ndarray, y: np.ndarray, squared: bool = False) -> float:
    there, back = cKDTree(y).query(x)[0], cKDTree(x).query(y)[0]
    return float((there**2).mean() + (back**2).mean()) if squared else float(there.mean() + back.mean())


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearest_agrees_with_scipy(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (2500, 2000))  # more than one chunk
    squared, index = nearest(torch.from_numpy(x), torch.from_numpy(y), backend=backend)  # type: ignore[arg-type]
    distance, expected = cKDTree(y).query(x)
    assert np.array_equal(index.numpy(), expected)
    np.testing.assert_allclose(squared.sqrt().numpy(), distance, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("others", [0, 2])
def test_no_points_have_no_neighbours(backend: str, others: int) -> None:
    squared, index = nearest(torch.zeros(0, 3), torch.zeros(others, 3), backend=backend)  # type: ignore[arg-type]
    assert squared.shape == index.shape == (0,) and index.dtype == torch.int64


def test_small_distances_far_from_the_origin_survive() -> None:
    y = torch.tensor([[1000.0, 0, 0], [1000.5, 0, 0]])
    squared, index = nearest(y + torch.tensor([0.125, 0, 0]), y, backend="reference")
    assert squared.tolist() == [0.015625, 0.015625] and index.tolist() == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("squared", [False, True])
def test_ragged_batches_agree_with_scipy(backend: str, squared: bool) -> None:
    rng = np.random.default_rng(1)
    x = torch.full((4, 60, 3), float("nan"))
    y = torch.full((4, 80, 3), float("nan"))
    n, m = [60, 1, 17, 33], [5, 80, 1, 64]
    expected = []
    for clip in range(4):
        a, b = (
            rng.normal(size=(n[clip], 3)).astype(np.float32),
            rng.normal(size=(m[clip], 3)).astype(np.float32),
        )
        x[clip, : n[clip]], y[clip, : m[clip]] = torch.from_numpy(a), torch.from_numpy(b)
        expected.append(scipy_chamfer(a, b, squared))
    lengths = {"x_lengths": torch.tensor(n), "y_lengths": torch.tensor(m)}
    got = chamfer(x, y, **lengths, squared=squared, backend=backend)  # type: ignore[arg-type]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_gradients_with_padding_and_shared_points() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 2]), torch.tensor([3, 4])

    def value(x: Tensor, y: Tensor) -> Tensor:
        return chamfer(x, y, x_lengths=lengths[0], y_lengths=lengths[1], cap=100.0)

    assert torch.autograd.gradcheck(value, (x, y))
    same = x.detach().clone().requires_grad_()
    chamfer(same, x.detach()).sum().backward()
    assert same.grad is not None and torch.equal(same.grad, torch.zeros_like(same))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_empty_clouds(cap: float | None) -> None:
    x = torch.full((3, 4, 3), float("nan"))
    x[1, :2] = 1.0
    x.requires_grad_()
    y = torch.randn(3, 5, 3, requires_grad=True)
    lengths = {"x_lengths": torch.tensor([0, 2, 0]), "y_lengths": torch.tensor([0, 0, 5])}
    value = chamfer(x, y, **lengths, cap=cap)
    assert value.tolist() == ([0, 0, 0] if cap is None else [0, cap, cap])
    value.sum().backward()
    assert x.grad is not None and y.grad is not None
    assert not x.grad.any() and not y.grad.any()
    assert chamfer(torch.zeros(2, 0, 3), torch.ones(2, 4, 3), cap=cap).tolist() == [cap or 0.0] * 2


def test_the_cap_limits_each_frame() -> None:
    near, far = torch.zeros(3, 3), torch.full((3, 3), 10.0)
    assert chamfer(near[None], far[None], cap=2.0).tolist() == [2.0]
    assert chamfer_4d([near, near], [near, far], cap=2.0).tolist() == [1.0]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_symmetry_scale_order_and_rigid_motion(n: int, m: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(1, m, 3, generator=generator, dtype=torch.float64)
    value = chamfer(x, y)
    torch.testing.assert_close(chamfer(y, x), value)
    torch.testing.assert_close(chamfer(x * scale, y * scale), value * scale)
    torch.testing.assert_close(chamfer(x[:, torch.randperm(n, generator=generator)], y), value)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    torch.testing.assert_close(chamfer(x @ turn + 3, y @ turn + 3), value)
    assert chamfer(x, torch.cat((x, x), dim=1)).item() == 0


def test_chamfer_4d_is_the_mean_over_frames_in_both_forms() -> None:
    generator = torch.Generator().manual_seed(3)
    x = [torch.randn(n, 3, generator=generator) for n in (4, 0, 7)]
    y = [torch.randn(n, 3, generator=generator) for n in (5, 3, 2)]
    each = [chamfer(a[None], b[None], cap=2.0).item() for a, b in zip(x, y, strict=True)]
    listed = chamfer_4d(x, y, cap=2.0)
    assert listed.tolist() == pytest.approx([sum(each) / 3])
    assert each[1] == 2.0
    x_pad, y_pad = (torch.nn.utils.rnn.pad_sequence(c, batch_first=True)[None] for c in (x, y))
    lengths = torch.tensor([[4, 0, 7]]), torch.tensor([[5, 3, 2]])
    assert torch.equal(chamfer_4d(x_pad, y_pad, x_lengths=lengths[0], y_lengths=lengths[1], cap=2.0), listed)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 4), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_pack_keeps_exactly_the_masked_points_in_order(rows: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, size, 3, generator=generator)
    mask = torch.rand(rows, size, generator=generator) > 0.5
    packed, lengths = pack(points, mask)
    assert packed.shape[1] == max(1, int(lengths.max()))
    for row in range(rows):
        assert torch.equal(packed[row, : lengths[row]], points[row][mask[row]])


def test_many_small_clouds_are_fast() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(24, 16, 400, 3, generator=generator) for _ in range(2))
    lengths = torch.randint(200, 401, (2, 24, 16), generator=generator)
    start = time.perf_counter()
    value = chamfer_4d(x, y, x_lengths=lengths[0], y_lengths=lengths[1], cap=2.0)
    assert time.perf_counter() - start < 3.0  # 0.2 s on an idle core; the margin is for a shared machine
    assert torch.isfinite(value).all()


def test_wrong_arguments_are_named() -> None:
    x = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=r"y: expected shape \[2, M, 3\], got \[3, 4, 3\]"):
        chamfer(x, torch.zeros(3, 4, 3))
    with pytest.raises(ValueError, match="x_lengths: expected counts from 0 to 4"):
        chamfer(x, x, x_lengths=torch.tensor([5, 1]))
    with pytest.raises(ValueError, match="y: expected at least one point"):
        nearest(x[0], x[0, :0])
    with pytest.raises(ValueError, match="backend: expected"):
        nearest(x[0], x[0], backend="gpu")  # type: ignore[arg-type]


def test_a_named_backend_that_cannot_serve_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "status", lambda: (False, "no compiler was found"))
    x = torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match="no compiler was found"):
        nearest(x, x, backend="native")
    with pytest.raises(RuntimeError, match="no compiler was found"):
        chamfer(x[None], x[None], backend="native")
    assert nearest(x, x)[0].tolist() == [0.0] * 4
