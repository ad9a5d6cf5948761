"""`phys4d::chamfer` against float64 by definition: value, gradients, troublesome clouds, torch's own rules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry import chamfer
from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_backward_op, chamfer_op
from phys4d.kernels.geometry.clouds.chamfer_reference import _with_others

BACKENDS = ["reference"] + (["native"] if native.status()[0] else [])
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def definition(x: Tensor, y: Tensor, n: Tensor, m: Tensor, squared: bool) -> Tensor:
    """By a matrix of all distances, one pair of clouds after the other, differentiable by torch alone."""
    values = []
    for a, b, rows, columns in zip(x, y, n.tolist(), m.tolist(), strict=True):
        if not rows or not columns:
            values.append(x.new_zeros(()))
            continue
        distances = (a[:rows, None] - b[None, :columns]).square().sum(dim=-1)
        nearest = distances.min(dim=1).values, distances.min(dim=0).values
        values.append(sum((d if squared else d.sqrt()).mean() for d in nearest))
    return torch.stack(values)


def batch(
    seed: int, n: int, m: int, dimensions: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three ragged pairs of clouds with anything in the padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n, dimensions, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(3, m, dimensions, generator=generator, dtype=torch.float64).to(dtype)
    lengths = [torch.randint(0, most + 1, (3,), generator=generator) for most in (n, m)]
    for cloud, count in zip((x, y), lengths, strict=True):
        cloud[torch.arange(cloud.shape[1]) >= count[:, None]] = torch.nan
    return x, y, lengths[0], lengths[1]


@every_backend
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(0, 70),
    m=st.integers(0, 70),
    dimensions=st.sampled_from([3, 4]),
    squared=st.booleans(),
)
def test_value_and_gradients_are_those_of_the_definition(
    backend: str, seed: int, n: int, m: int, dimensions: int, squared: bool
) -> None:
    x, y, x_lengths, y_lengths = batch(seed, n, m, dimensions)
    found, expected = [], []
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for results, function in (
        (found, lambda a, b: chamfer_op(a, b, x_lengths, y_lengths, squared, backend)[0]),
        (expected, lambda a, b: definition(a, b, x_lengths, y_lengths, squared)),
    ):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = function(a, b)
        (value * weights).sum().backward() if value.requires_grad else None
        results.extend([value.detach(), *(torch.zeros_like(c) if c.grad is None else c.grad for c in (a, b))])
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@every_backend
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("squared", [False, True])
def test_float32_is_as_good_as_its_rounding(backend: str, scale: float, squared: bool) -> None:
    x, y, n, m = batch(5, 300, 200, dtype=torch.float32)
    x, y = (c * scale for c in (x, y))
    exact = definition(x.double(), y.double(), n, m, squared)
    value = chamfer(x, y, x_lengths=n, y_lengths=m, squared=squared, backend=backend)  # type: ignore[arg-type]
    torch.testing.assert_close(value.double(), exact, rtol=2e-7, atol=0)


@every_backend
@pytest.mark.parametrize("squared", [False, True])
def test_gradcheck(backend: str, squared: bool) -> None:
    x, y, n, m = batch(2, 9, 7)
    x, y = (c.nan_to_num(3.0).requires_grad_() for c in (x, y))
    assert torch.autograd.gradcheck(lambda a, b: chamfer_op(a, b, n, m, squared, backend)[0], (x, y))


@every_backend
def test_a_point_that_is_no_number_spoils_its_own_pair_alone(backend: str) -> None:
    x, y = torch.randn(3, 40, 3), torch.randn(3, 30, 3)
    clean = chamfer(x, y, backend=backend)  # type: ignore[arg-type]
    x[1, 7], y[2, 3, 1] = torch.nan, torch.nan
    x, y = x.requires_grad_(), y.requires_grad_()
    value = chamfer(x, y, backend=backend)  # type: ignore[arg-type]
    assert value[0] == clean[0] and value[1:].isnan().all()
    value[0].backward()
    assert x.grad is not None and x.grad.isfinite().all() and not x.grad[1:].any()
    _, nearest_in_y, nearest_in_x = chamfer_op(x, y, *(torch.tensor([c.shape[1]] * 3) for c in (x, y)), False, backend)
    assert not (nearest_in_x[1] == 7).any() and nearest_in_y[1, 7] == 0
    assert not (nearest_in_y[2] == 3).any() and nearest_in_x[2, 3] == 0


@every_backend
def test_infinite_points_are_infinitely_far(backend: str) -> None:
    x, y = torch.randn(1, 40, 3), torch.randn(1, 30, 3)
    x[0, 3, 0] = torch.inf
    assert chamfer(x, y, backend=backend).item() == torch.inf  # type: ignore[arg-type]
    assert chamfer(x, y, cap=2.0, backend=backend).item() == 2.0  # type: ignore[arg-type]
    x = x.requires_grad_()
    chamfer(x, y, cap=2.0, backend=backend).sum().backward()  # type: ignore[arg-type]
    assert x.grad is not None and not x.grad.any()


@every_backend
def test_duplicates_share_nothing_but_the_first_takes_all(backend: str) -> None:
    x = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [5, 0, 0]]], requires_grad=True)
    y = torch.tensor([[[1.0, 0, 0], [1, 0, 0]]], requires_grad=True)
    chamfer(x, y, backend=backend).sum().backward()  # type: ignore[arg-type]
    assert x.grad is not None and y.grad is not None
    third = 1 / 3
    torch.testing.assert_close(x.grad[0, :, 0], torch.tensor([-third - 1, -third, third]))
    torch.testing.assert_close(y.grad[0, :, 0], torch.tensor([2 * third - third + 0.5, 0.5]))


class SaysCuda(Tensor):
    """A tensor on the CPU that takes the paths of CUDA."""

    is_cuda = True  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Tensor, SaysCuda])
def test_what_several_points_add_to_one_is_summed(kind: type[Tensor]) -> None:
    own, others = torch.tensor([[[10.0], [20]]]), torch.tensor([[[1.0], [2], [4], [0]]])
    chosen, lengths = torch.tensor([[0, 0, 1, 0]]), torch.tensor([3])
    assert _with_others(own.as_subclass(kind), others, chosen, lengths).flatten().tolist() == [7, 16]


@every_backend
def test_every_run_gives_the_same_bits_on_any_number_of_threads(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, n, 3, generator=generator).mul(20).round().div(20) for n in (6000, 5000))
    lengths = torch.tensor([6000, 3100]), torch.tensor([4800, 5000])
    threads = torch.get_num_threads()
    runs = []
    try:
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            value = chamfer(a, b, x_lengths=lengths[0], y_lengths=lengths[1], backend=backend)  # type: ignore[arg-type]
            value.sum().backward()
            assert a.grad is not None and b.grad is not None
            runs.append((value.detach(), a.grad, b.grad))
    finally:
        torch.set_num_threads(threads)
    # torch's own sums, which the reference uses, may be split among threads.
    others = runs[1:] if backend == "native" else runs[3:]
    assert all(torch.equal(a, b) for run in others for a, b in zip(runs[0], run, strict=True))


@pytest.mark.skipif("native" not in BACKENDS, reason=native.status()[1])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), lattice=st.booleans(), dimensions=st.sampled_from([3, 4]), double=st.booleans())
def test_backends_choose_the_same_points(seed: int, lattice: bool, dimensions: int, double: bool) -> None:
    x, y, n, m = batch(seed, 400, 300, dimensions, torch.float64 if double else torch.float32)
    if lattice:
        x, y = x.round(), y.round()
    _, ours, back = chamfer_op(x, y, n, m, False, "native")
    _, theirs, back_theirs = chamfer_op(x, y, n, m, False, "reference")
    assert torch.equal(ours, theirs) and torch.equal(back, back_theirs)


@every_backend
def test_is_a_well_formed_op(backend: str) -> None:
    x, y, n, m = batch(3, 9, 7)
    x, y = (c.nan_to_num(3.0).requires_grad_() for c in (x, y))
    results = torch.library.opcheck(chamfer_op._opoverload, (x, y, n, m, False, backend))
    assert set(results.values()) == {"SUCCESS"}
    _, nearest_in_y, nearest_in_x = chamfer_op(x, y, n, m, False, backend)
    arguments = (torch.ones(3, dtype=x.dtype), x.detach(), y.detach(), n, m, nearest_in_y, nearest_in_x, False, backend)
    results = torch.library.opcheck(chamfer_backward_op._opoverload, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("cap", [None, 1.5])
def test_compiles_into_one_graph_with_gradients(cap: float | None) -> None:
    x, y, n, m = batch(4, 40, 30, dtype=torch.float32)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return chamfer(2 * a, b, x_lengths=n, y_lengths=m, cap=cap).sum()

    x, y = (c.nan_to_num(3.0).requires_grad_() for c in (x, y))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, y), loss(x, y))
    for got, want in zip(
        torch.autograd.grad(compiled(x, y), (x, y)), torch.autograd.grad(loss(x, y), (x, y)), strict=True
    ):
        assert torch.equal(got, want)


def test_autocast_computes_in_float32() -> None:
    x, y, n, m = batch(6, 20, 20, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        value = chamfer_op(x, y, n, m, False, "auto")[0]
    assert value.dtype == torch.float32
    assert torch.equal(value, chamfer_op(x.float(), y.float(), n, m, False, "auto")[0])


def test_strides_do_not_matter() -> None:
    x, y = torch.randn(3, 2, 50).permute(1, 2, 0), torch.randn(2, 40, 6)[..., ::2]
    assert not x.is_contiguous() and not y.is_contiguous()
    assert torch.equal(chamfer(x, y), chamfer(x.contiguous(), y.contiguous()))


def test_a_second_derivative_is_refused() -> None:
    x, y = (torch.randn(1, 5, 3, requires_grad=True) for _ in range(2))
    (gradient,) = torch.autograd.grad(chamfer(x, y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_clouds_that_do_not_fit_are_named() -> None:
    x = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match="y: expected torch.float32 on cpu as x is, got torch.float64"):
        chamfer(x, x.double())
    with pytest.raises(ValueError, match=r"y: expected shape \[2, M, 4\]"):
        chamfer(torch.zeros(2, 4, 4), x)
    with pytest.raises(RuntimeError, match="the triton backend cannot serve"):
        chamfer(x, x, backend="triton")
