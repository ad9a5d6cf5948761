"""Gate, residual, norm and modulation as an operator: torch's contract, compilation, autocast, and refusals."""

import pytest
import torch

from phys4d.kernels.elementwise import TokenRows, adaptive_norm, adaptive_norm_reference
from tests.kernels.elementwise.adaptive_norm_cases import EXAMPLES, NAMES, eager, example, gradients, hold, ours, truth


def flat(leaves, norm, rows):
    """The operator's own arguments."""
    plan = (None,) * 5 if rows is None else (rows.index, rows.order, rows.forward, rows.backward, rows.begins)
    return (*(leaves.get(name) for name in NAMES), *plan, norm or "", 1e-6)


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
        ({"weight": torch.zeros(39)}, r"expected weight \[40\], got \[39\]"),
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
