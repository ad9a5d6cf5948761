"""Gate, residual, norm and modulation: the definition against torch's norms, the kernels against the definition."""

import importlib
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.kernels import native
from phys4d.kernels.elementwise import TokenRows, adaptive_norm, adaptive_norm_reference

ALL = {"y", "gate", "scale", "shift"}
EXAMPLES = {  # parts, norm, rows: a number, or "mixed"
    "wan self-attention": (ALL, "layer", 1),
    "wan cross-attention": ({"y", "weight", "bias"}, "layer", 1),
    "wan frames": (ALL, "layer", 6),
    "cogvideox": (ALL | {"weight", "bias"}, "layer", 2),
    "open-sora": ({"scale", "shift"}, "layer", 2),
    "rms": (ALL | {"weight"}, "rms", 2),
    "every token its own": (ALL, "layer", 30),
    "mixed rows": (ALL | {"weight", "bias"}, "layer", "mixed"),
    "mixed rows, rms": ({"scale", "shift"}, "rms", "mixed"),
    "a gated residual": ({"y", "gate"}, None, 2),
    "modulation alone": ({"scale", "shift"}, None, 6),
    "a norm alone": (set(), "rms", 1),
    "half a modulation": ({"y", "shift"}, "layer", 2),
    "the other half": ({"y", "gate", "scale"}, "layer", 6),
}
SHAPE = (2, 15, 40)
CPU = ["definition"] + (["native"] if native.status()[0] else [])  # what serves the CPU
NAMES = ("x", "y", "gate", "weight", "bias", "scale", "shift")


def example(parts, norm, rows, dtype=torch.float32, device="cpu", shape=SHAPE, seed=0):
    """Leaves by name, and the other arguments: x a part of a wider tensor, y transposed, tables chunks of one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator)

    batch, count, width = shape
    size = 7 if rows == "mixed" else rows
    table = draw(size, 6, width)
    every = {
        "x": draw(batch, count, width + 8)[..., :width] * 3 + 1, "y": draw(count, batch, width).transpose(0, 1),
        "gate": table[:, 2], "weight": draw(width), "bias": draw(width), "scale": table[:, 1], "shift": table[:, 0],
    }  # fmt: skip
    leaves = {name: t.to(device, dtype).requires_grad_() for name, t in every.items() if name in {"x", *parts}}
    index = torch.randint(5, (batch, count), generator=generator).to(device) if rows == "mixed" else None  # two unused
    return leaves, norm, None if index is None else TokenRows.of(index, size)


@contextmanager
def computed_by(implementation):
    """Native code or the definition, on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if implementation == "definition":
            module = importlib.import_module("phys4d.kernels.elementwise.adaptive_norm_native")
            patch.setattr(module, "serves", lambda *tensors: False)
        yield


def gradients(outs, leaves, seed=7):
    """Of the sum of all outs, weighted at random."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(out.shape, generator=generator).to(out.device, out.dtype) for out in outs]
    return torch.autograd.grad(outs, list(leaves.values()), weights)


def ours(leaves, norm, rows):
    """(stream, out, gradients...)."""
    stream, out = adaptive_norm(**leaves, norm=norm, rows=rows)
    return [stream.detach(), out.detach(), *gradients((stream, out), leaves)]


def truth(leaves, norm, rows):
    """The same by the definition in float64."""
    exact = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
    index = None if rows is None else rows.index
    outs = adaptive_norm_reference(*(exact.get(name) for name in NAMES), index, norm or "", 1e-6)
    return [*(out.detach() for out in outs), *gradients(outs, exact)]


def eager(leaves, norm, rows):
    """As models write it, in the dtype that they are in."""
    x, y, gate, weight, bias, scale, shift = (leaves.get(name) for name in NAMES)

    def of_tokens(table):
        if rows is not None:
            return table[rows.index.long()]
        return table.repeat_interleave(x.shape[0] * x.shape[1] // len(table), 0).view(x.shape)

    if y is not None:
        x = x + (y if gate is None else of_tokens(gate) * y)
    out = x
    if norm == "layer":
        out = F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)
    elif norm == "rms":
        out = F.rms_norm(x, x.shape[-1:], weight, 1e-6)
    out = out if scale is None else out * (1 + of_tokens(scale))
    out = out if shift is None else out + of_tokens(shift)
    return [x.detach(), out.detach(), *gradients((x, out), leaves)]


def hold(found, exact, others=None, tolerance=0.0):
    """Errors are at most twice those of others, and some ulps of the largest number."""
    for number, (mine, right) in enumerate(zip(found, exact, strict=True)):
        error = (mine.double() - right).abs().max()
        allowed = tolerance * right.abs().max()
        if others is not None:
            allowed = allowed + 2 * (others[number].double() - right).abs().max()
        assert mine.isfinite().all() and error <= allowed, f"result {number}: {error:.2e} > {allowed:.2e}"


def hold_definition(case, dtype, device):
    """Errors are at most twice those of torch's own operators, and half a unit in the last place."""
    leaves, norm, rows = example(*EXAMPLES[case], dtype=dtype, device=device)
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), eager(leaves, norm, rows), torch.finfo(dtype).eps / 2)


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


shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70))
few_tokens = st.tuples(st.integers(1, 3), st.integers(1, 10), st.integers(1, 70))  # for the interpreter


def hold_shape(shape, case, seed, device):
    """Results for tokens of this shape; as many rows of the case's as share them evenly."""
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
    """Two runs are equal, in memory that is not a number before it is written."""
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


def flat(leaves, norm, rows):
    """The operator's own arguments."""
    plan = [] if rows is None else [rows.order, rows.forward, rows.backward, rows.begins]
    return (*(leaves.get(name) for name in NAMES), rows and rows.index, plan, norm or "", 1e-6)


@pytest.mark.interpreted
@pytest.mark.parametrize("case", ["cogvideox", "wan cross-attention", "mixed rows", "a gated residual"])
def test_the_operator_keeps_torchs_contract(case, device):
    torch.library.opcheck(torch.ops.phys4d.adaptive_norm.default, flat(*example(*EXAMPLES[case], device=device)))


@pytest.mark.parametrize("case", ["cogvideox", "open-sora", "mixed rows", "a gated residual"])
def test_on_the_cpu_the_operator_keeps_torchs_contract(case):
    torch.library.opcheck(torch.ops.phys4d.adaptive_norm.default, flat(*example(*EXAMPLES[case])))


@pytest.mark.parametrize("case", ["wan self-attention", "cogvideox", "mixed rows"])
def test_compiles_into_one_graph(case):
    leaves, norm, rows = example(*EXAMPLES[case])
    names = list(leaves)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(*tensors):
        return adaptive_norm(**dict(zip(names, tensors, strict=True)), norm=norm, rows=rows)

    found = layer(*leaves.values())
    for mine, other in zip([*found, *gradients(found, leaves)], ours(leaves, norm, rows), strict=True):
        assert torch.equal(mine, other)


def test_frozen_modulation_keeps_nothing_of_y_and_gets_no_gradient():
    leaves, norm, rows = example(*EXAMPLES["wan self-attention"])
    frozen = {name: t.detach() if name not in "xy" else t for name, t in leaves.items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        stream, out = adaptive_norm(**frozen, norm=norm, rows=rows)
    y = leaves["y"]
    assert not any(t.shape == y.shape and t.data_ptr() == y.data_ptr() for t in kept)
    exact = truth(leaves, norm, rows)
    hold(gradients((stream, out), {name: leaves[name] for name in "xy"}), exact[2:4], tolerance=1e-6)


@pytest.mark.parametrize("part", ["stream", "out"])
def test_only_one_of_both_results_is_used(part):
    for case in ("cogvideox", "rms", "mixed rows"):
        leaves, norm, rows = example(*EXAMPLES[case])
        exact = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
        index = None if rows is None else rows.index
        number = ("stream", "out").index(part)
        mine = adaptive_norm(**leaves, norm=norm, rows=rows)[number].square().sum()
        right = adaptive_norm_reference(*(exact.get(n) for n in NAMES), index, norm, 1e-6)[number].square().sum()
        for a, b in zip(
            torch.autograd.grad(mine, list(leaves.values()), allow_unused=True, materialize_grads=True),
            torch.autograd.grad(right, list(exact.values()), allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            assert (a.double() - b).abs().max() <= 1e-5 * b.abs().max() + 1e-30


def test_under_autocast_each_tensor_keeps_its_dtype():
    """A float32 stream, what a bfloat16 layer made, a float32 modulation: as Wan is trained."""
    leaves, norm, rows = example(*EXAMPLES["wan self-attention"])
    leaves["y"] = leaves["y"].detach().bfloat16().requires_grad_()
    plain = ours(leaves, norm, rows)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ours(leaves, norm, rows)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    assert [t.dtype for t in plain[:4]] == [torch.float32] * 3 + [torch.bfloat16]
    hold(plain[:2], truth(leaves, norm, rows)[:2], tolerance=1e-6)


@pytest.mark.interpreted
def test_streams_of_other_dtypes_than_what_is_added(device):
    leaves, norm, rows = example(*EXAMPLES["wan self-attention"], device=device)
    leaves["y"] = leaves["y"].detach().bfloat16().requires_grad_()
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), eager(leaves, norm, rows), 4e-3)


def test_equal_rows_may_be_stored_once():
    """A row by index is the same as that row for each of its tokens."""
    leaves, norm, rows = example(*EXAMPLES["mixed rows"])
    each = {n: leaves[n].detach()[rows.index.flatten().long()] for n in ("gate", "scale", "shift")}
    expanded = {n: t.detach() for n, t in leaves.items()} | each
    found, wanted = adaptive_norm(**leaves, norm=norm, rows=rows), adaptive_norm(**expanded, norm=norm)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_without_anything_to_do_x_comes_back():
    x = torch.ones(1, 2, 3)
    stream, out = adaptive_norm(x, norm=None)
    assert stream is x and out is x
    stream, out = adaptive_norm(x, x, norm=None)
    assert out is stream and torch.equal(stream, x + x)
    empty, _ = adaptive_norm(x[:, :0], x[:, :0])
    assert empty.shape == (1, 0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(15, 40)}, r"expected floating x \[B, S, C\]"),
        ({"x": torch.zeros(1, 1, 8193)}, "C from 1 to 8192"),
        ({"y": torch.zeros(2, 15, 39)}, r"floating y \[2, 15, 40\] like x"),
        ({"norm": "batch"}, "layer, rms or None, got 'batch'"),
        ({"norm": "rms"}, "a bias, but the norm rms has none"),
        ({"norm": None}, "a weight, but the norm None has none"),
        ({"weight": torch.zeros(39)}, r"contiguous weight \[40\], got \[39\]"),
        ({"y": None}, "a gate, but no y"),
        ({"gate": torch.zeros(3, 40)}, r"of equal R, got gate \[3, 40\], scale \[2, 40\]"),
        ({"gate": torch.zeros(2, 39)}, r"\[R, 40\] of equal R, got gate \[2, 39\]"),
        ({name: torch.zeros(4, 40) for name in ("gate", "scale", "shift")}, "4 rows do not share 2 x 15 tokens evenly"),
        ({"rows": TokenRows.of(torch.zeros(2, 14, dtype=torch.int64), 2)}, r"rows of \[2, 15\] tokens, got \[2, 14\]"),
        ({"rows": TokenRows.of(torch.zeros(2, 15, dtype=torch.int64), 3)}, "rows made for 3, gate, scale and shift"),
        ({"scale": torch.zeros(40, 2).T}, "scale with a contiguous last dimension"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, message):
    leaves, norm, _ = example(*EXAMPLES["cogvideox"])
    with pytest.raises(ValueError, match=message):
        adaptive_norm(**({**leaves, "norm": norm} | change))


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize("count", [1, 3, 15, 17])
@pytest.mark.parametrize("implementation", CPU)
def test_a_few_tokens_on_the_cpu_leave_nothing_unwritten(case, count, implementation):
    """What torch has not initialised is NaN here."""
    parts, norm, rows = EXAMPLES[case]
    rows = rows if rows == "mixed" else max(r for r in range(1, min(rows, count) + 1) if count % r == 0)
    leaves, norm, rows = example(parts, norm, rows, shape=(1, count, 40))
    torch.use_deterministic_algorithms(True)
    try:
        with computed_by(implementation):
            hold(ours(leaves, norm, rows), truth(leaves, norm, rows), tolerance=1e-5)
    finally:
        torch.use_deterministic_algorithms(False)
