"""The native nearest-neighbour kernel against its definition; skipped where it was not built."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phys4d.kernels import native
from phys4d.kernels.geometry.clouds.nearest_native import nearest_native

AVAILABLE, REASON = native.status()
built = pytest.mark.skipif(not AVAILABLE, reason=REASON)


def clouds(n, m, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator).to(dtype), torch.randn(m, 3, generator=generator).to(dtype)


def by_definition(x, y):
    """Differences, squares and sum in the kernel's order; torch's argmin takes the lowest index."""
    dx, dy, dz = (x[:, None, axis] - y[None, :, axis] for axis in range(3))
    distance = dx * dx + dy * dy + dz * dz
    index = distance.argmin(1)
    return distance.gather(1, index[:, None])[:, 0], index


@built
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([torch.float32, torch.float64]))
def test_equals_the_definition_to_the_bit(n, m, dtype):
    x, y = clouds(n, m, dtype, seed=n * 100 + m)
    distance, index = nearest_native(x, y)
    expected, expected_index = by_definition(x, y)
    assert torch.equal(index, expected_index)
    assert torch.equal(distance, expected)


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_go_to_the_lowest_index(dtype):
    x, y = (t.round() for t in clouds(300, 400, dtype))  # a lattice: most distances occur many times
    assert torch.equal(nearest_native(x, y)[1], by_definition(x, y)[1])
    assert (nearest_native(x, y[:1].repeat(50, 1))[1] == 0).all()


@built
def test_threads_and_strides_do_not_change_a_bit():
    x, y = clouds(3000, 1500)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = nearest_native(x, y)
        torch.set_num_threads(3)
        several = nearest_native(x, y)
    finally:
        torch.set_num_threads(threads)
    strided = nearest_native(x.T.contiguous().T, torch.cat([y, y], 1)[:, :3])
    for other in (several, strided):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@built
def test_values_that_are_not_numbers():
    x, y = clouds(5, 6)
    y[0], y[3] = torch.nan, torch.inf
    distance, index = nearest_native(x, y)
    assert torch.equal(index, torch.tensor([1, 2, 4, 5])[by_definition(x, y[[1, 2, 4, 5]])[1]])
    assert distance.isfinite().all()
    x[2] = torch.nan
    distance, index = nearest_native(x, y)
    assert index[2] == 0 and distance[2].isnan() and distance[[0, 1, 3, 4]].isfinite().all()


@built
def test_empty_clouds():
    x, y = clouds(0, 4)
    assert [t.shape for t in nearest_native(x, y)] == [(0,), (0,)]
    assert nearest_native(x, y[:0])[1].dtype == torch.int64
    with pytest.raises(ValueError, match="y has no points"):
        nearest_native(y, x)


@built
def test_gradients():
    x, y = (t.requires_grad_() for t in clouds(20, 12, torch.float64))
    assert torch.autograd.gradcheck(lambda a, b: nearest_native(a, b)[0], (x, y))
    assert torch.autograd.gradgradcheck(lambda a, b: nearest_native(a, b)[0], (x, y))
    first, second = (torch.autograd.grad(nearest_native(x, y)[0].sum(), (x, y)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_a_well_formed_op(dtype):
    x, y = (t.requires_grad_() for t in clouds(9, 7, dtype))
    results = torch.library.opcheck(torch.ops.phys4d.nearest.default, (x, y))
    assert set(results.values()) == {"SUCCESS"}


@built
def test_compiles_into_one_graph_with_gradients():
    x, y = (t.requires_grad_() for t in clouds(40, 30))

    def loss(a, b):
        return nearest_native(2 * a, b)[0].sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, y), loss(x, y))
    for a, b in zip(
        torch.autograd.grad(compiled(x, y), (x, y)), torch.autograd.grad(loss(x, y), (x, y)), strict=True
    ):
        assert torch.equal(a, b)


@built
def test_autocast_computes_in_float32():
    x, y = clouds(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        distance, index = nearest_native(x.bfloat16(), y.bfloat16())
    expected = nearest_native(x.bfloat16().float(), y.bfloat16().float())
    assert torch.equal(distance, expected[0]) and torch.equal(index, expected[1])


@built
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_gives_the_bits_of_the_cpu(dtype):
    x, y = clouds(1000, 777, dtype)
    for on_cpu, on_cuda in zip(nearest_native(x, y), nearest_native(x.cuda(), y.cuda()), strict=True):
        assert torch.equal(on_cpu, on_cuda.cpu())


@built
def test_refusals_say_why():
    x, y = clouds(3, 3)
    for bad, message in [((x[:, :2], y), r"expected x \[N, 3\]"), ((x, y.double()), "x is torch.float32")]:
        with pytest.raises(ValueError, match=message):
            nearest_native(*bad)
    with pytest.raises(RuntimeError, match="float32 or float64 only"):
        nearest_native(x.half(), y.half())


def test_the_status_is_a_reason():
    assert isinstance(AVAILABLE, bool)
    assert REASON.startswith("built for CPU") if AVAILABLE else REASON


def test_without_the_kernels_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(native, "_STATUS", (False, "not built: no C++ compiler"))
    with pytest.raises(ValueError, match="not available: not built: no C\\+\\+ compiler"):
        nearest_native(*clouds(3, 3))
