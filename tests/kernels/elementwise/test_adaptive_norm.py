"""Gate, residual, norm and modulation: the kernels and the CPU code against the definition."""

import importlib
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.kernels.elementwise import TokenRows, adaptive_norm
from phys4d.kernels.elementwise.adaptive_norm_reference import adaptive_norm_backward_reference, forward_reference
from tests.kernels.elementwise.adaptive_norm_cases import (
    CPU,
    EXAMPLES,
    computed_by,
    eager,
    example,
    hold,
    hold_definition,
    ours,
    truth,
)

USUAL = ("wan self-attention", "cogvideox", "mixed rows", "a gated residual")
IN_THE_INTERPRETER = [case if case in USUAL else pytest.param(case, marks=pytest.mark.slow) for case in EXAMPLES]
LOW = [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]


@pytest.mark.interpreted
@pytest.mark.parametrize("case", EXAMPLES)
def test_in_float32_the_kernels_compute_the_definition(case, device):
    hold_definition(case, torch.float32, device)


@pytest.mark.interpreted
@pytest.mark.parametrize("case", IN_THE_INTERPRETER)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_in_half_precision_the_kernels_compute_the_definition(case, dtype, device):
    hold_definition(case, dtype, device)


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("implementation", CPU)
def test_on_the_cpu_it_is_the_definition(case, dtype, implementation):
    with computed_by(implementation):
        hold_definition(case, dtype, torch.device("cpu"))


@pytest.mark.parametrize("case", EXAMPLES)
def test_in_float64_it_is_the_definition(case):
    leaves, norm, rows = example(*EXAMPLES[case], dtype=torch.float64)
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), tolerance=1e-13)


@pytest.mark.parametrize("case", ["cogvideox", "mixed rows", "mixed rows, rms", "modulation alone"])
def test_gradients_are_those_of_finite_differences(case):
    leaves, norm, rows = example(*EXAMPLES[case], dtype=torch.float64, shape=(2, 3, 4))
    names = list(leaves)

    def function(*tensors):
        return adaptive_norm(**dict(zip(names, tensors, strict=True)), norm=norm, rows=rows)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize(
    ("kind", "epsilon", "out", "stats"),
    [("layer", 0.75, [-0.5, 0.5], [2.0, 1.0]), ("rms", 11.75, [0.375, 0.625], [0.0, 0.25])],
)
def test_epsilon_is_added_to_the_mean_square(kind, epsilon, out, stats):
    """1.5 and 2.5: of variance 0.25 about 2, of mean square 4.25."""
    found = forward_reference(torch.tensor([[[1.5, 2.5]]]), *[None] * 7, kind, epsilon)
    assert found[1].flatten().tolist() == out and found[2].flatten().tolist() == stats


def test_where_no_gradient_of_a_table_is_wanted_there_are_none_for_each_row():
    x = torch.ones(1, 6, 4)
    dx, dy, tables = adaptive_norm_backward_reference(x, *[None] * 4, x, x, 2 * x, None, "", 3, False)
    assert (dx == 3).all() and dy is None and tables.shape == (3, 0, 4)


class OnCuda(torch.Tensor):
    """A CPU tensor that says that it is on CUDA; `called`: what torch was asked for."""

    is_cuda = property(lambda self: True)
    called: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.called.append(getattr(func, "__name__", ""))
        return super().__torch_function__(func, types, args, kwargs or {})


def test_on_cuda_rows_are_added_up_in_an_order_that_does_not_change():
    """By index_put, which sorts; index_add there would use float atomics."""
    x = torch.tensor([[[1.0, 2], [3, 4], [5, 6], [7, 8]]])
    index, ones = torch.tensor([[0, 2, 0, 2]]), torch.ones(1, 4, 2)
    for kind in (torch.Tensor, OnCuda):
        stream, y, dstream = (t.as_subclass(kind) for t in (ones, ones, x))
        rest = dstream, None, index, "", 3, False
        tables = adaptive_norm_backward_reference(stream, y, *[None] * 4, *rest)[2]
        assert tables.flatten().tolist() == [6, 8, 0, 0, 10, 12]
    assert "index_put" in OnCuda.called and "index_add" not in OnCuda.called


shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70))
few_tokens = st.tuples(st.integers(1, 3), st.integers(1, 10), st.integers(1, 70))  # for the interpreter


def hold_shape(shape, case, seed, device):
    """Asserts the results for tokens of this shape, with the largest number of rows that divides them evenly."""
    parts, norm, rows = EXAMPLES[case]
    tokens = shape[0] * shape[1]
    rows = rows if rows == "mixed" else max(r for r in range(1, min(rows, tokens) + 1) if tokens % r == 0)
    leaves, norm, rows = example(parts, norm, rows, device=device, shape=shape, seed=seed)
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), eager(leaves, norm, rows), 1e-6)


@pytest.mark.interpreted
@settings(max_examples=8, deadline=None)
@given(few_tokens, st.sampled_from(sorted(EXAMPLES)), st.integers(0, 99))
def test_odd_shapes(device, shape, case, seed):
    hold_shape(shape, case, seed, device)


@pytest.mark.parametrize("implementation", CPU)
@settings(max_examples=50, deadline=None)
@given(shapes.filter(lambda shape: shape[2] > 1), st.sampled_from(sorted(EXAMPLES)), st.integers(0, 99))
def test_on_the_cpu_odd_shapes(implementation, shape, case, seed):
    with computed_by(implementation):
        hold_shape(shape, case, seed, torch.device("cpu"))


@pytest.mark.interpreted
@pytest.mark.parametrize("width", [1, 2047, 8192])
def test_narrow_and_wide(width, device):
    leaves, norm, rows = example(*EXAMPLES["cogvideox"], device=device, shape=(1, 4, width))
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), eager(leaves, norm, rows), 1e-6)


@pytest.mark.interpreted
@pytest.mark.parametrize("case", ["cogvideox", "wan frames", "mixed rows"])
def test_more_tokens_than_a_segment_holds(case, device, monkeypatch):
    """Sums of many segments, of rows with few tokens and with many."""
    for file in ("adaptive_norm_ops", "token_rows"):
        for name in ("FORWARD_PROGRAMS", "BACKWARD_PROGRAMS"):
            monkeypatch.setattr(importlib.import_module(f"phys4d.kernels.elementwise.{file}"), name, 12)
    leaves, norm, rows = example(*EXAMPLES[case], device=device, shape=(2, 69, 24))
    if rows is not None:  # one row has nearly all, two have none
        uneven = torch.where(rows.index < 4, 1, rows.index)
        rows = TokenRows.of(uneven, 7)
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), eager(leaves, norm, rows), 1e-6)


def hold_bits(case, device):
    """Asserts that two runs are bit-equal, in memory that is NaN before it is written."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, device=device).isnan().all()
        leaves, norm, rows = example(*EXAMPLES[case], device=device)
        runs = [ours(leaves, norm, rows) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one, two) and one.isfinite().all()


@pytest.mark.interpreted
@pytest.mark.parametrize("case", IN_THE_INTERPRETER)
def test_every_element_is_written_and_two_runs_are_bit_equal(case, device):
    hold_bits(case, device)


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize("implementation", CPU)
def test_on_the_cpu_every_element_is_written_and_two_runs_are_bit_equal(case, implementation):
    with computed_by(implementation):
        hold_bits(case, torch.device("cpu"))


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize("count", [1, 3, 15, 17])
@pytest.mark.parametrize("implementation", CPU)
def test_a_few_tokens_on_the_cpu_leave_nothing_unwritten(case, count, implementation):
    """torch.empty returns NaN here."""
    parts, norm, rows = EXAMPLES[case]
    rows = rows if rows == "mixed" else max(r for r in range(1, min(rows, count) + 1) if count % r == 0)
    leaves, norm, rows = example(parts, norm, rows, shape=(1, count, 40))
    torch.use_deterministic_algorithms(True)
    try:
        with computed_by(implementation):
            hold(ours(leaves, norm, rows), truth(leaves, norm, rows), tolerance=1e-5)
    finally:
        torch.use_deterministic_algorithms(False)
