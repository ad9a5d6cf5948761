"""Gate, residual, norm and modulation by native code: beside torch's operators, bits, memory, and what it leaves."""

import importlib

import pytest
import torch

from phys4d.kernels import native
from phys4d.kernels.elementwise import TokenRows, adaptive_norm

FLOAT, HALF = torch.float32, torch.bfloat16
serving = importlib.import_module("phys4d.kernels.elementwise.adaptive_norm_native")
pytestmark = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])


def drawn(shape, rows, dtypes=(FLOAT,), norm="layer", seed=0, parts="y gate scale shift weight bias"):
    """Leaves by name, dtypes in turn, and the other arguments: x a part of a wider tensor, y transposed, tables chunks
    of one; rows: a number, or "mixed", 5 of 7 by index."""
    generator = torch.Generator().manual_seed(seed)
    batch, count, width = shape
    table = torch.randn(7 if rows == "mixed" else rows, 3, width, generator=generator)
    every = {
        "x": torch.randn(batch, count, width + 3, generator=generator)[..., :width] * 3 + 1,
        "y": torch.randn(count, batch, width, generator=generator).transpose(0, 1),
        "gate": table[:, 2], "scale": table[:, 1], "shift": table[:, 0],
        "weight": torch.randn(width, generator=generator), "bias": torch.randn(width, generator=generator),
    }  # fmt: skip
    wanted = ["x", *(part for part in parts.split() if part != "bias" or norm == "layer")]
    leaves = {name: every[name].to(dtypes[k % len(dtypes)]).requires_grad_() for k, name in enumerate(wanted)}
    index = torch.randint(5, (batch, count), generator=generator) if rows == "mixed" else None
    return leaves, {"norm": norm, "rows": None if index is None else TokenRows.of(index, 7)}


def results(leaves, rest):
    """Stream, result, and gradients of their sum, weighted at random."""
    outs = adaptive_norm(**leaves, **rest)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outs]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, list(leaves.values()), weights)]


def by_definition(leaves, rest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "serves", lambda *tensors: False)
        return results(leaves, rest)


def close(found, wanted, tolerance):
    for number, (one, two) in enumerate(zip(found, wanted, strict=True)):
        assert one.dtype == two.dtype and one.shape == two.shape
        error = (one.double() - two.double()).abs().max()
        assert one.isfinite().all() and error <= tolerance * two.double().abs().max(), f"result {number}: {error:.2e}"


@pytest.mark.parametrize("rows", [1, 2, 6, 30, "mixed"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("dtypes", [(FLOAT,), (HALF,), (FLOAT, HALF), (HALF, FLOAT), (HALF, HALF, FLOAT)], ids=str)
def test_it_agrees_with_torchs_operators(rows, norm, dtypes):
    case = drawn((2, 15, 300), rows, dtypes, norm)
    close(results(*case), by_definition(*case), 1e-5 if dtypes == (FLOAT,) else 1.2e-2)


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
def test_every_width(dtype):
    for width in (*range(1, 71), 8192):
        case = drawn((1, 6, width), 2, (dtype,), "layer" if width > 3 else "rms", seed=width)
        close(results(*case), by_definition(*case), 2e-5 if dtype == FLOAT else 1.6e-2)


@pytest.mark.parametrize("rows", [1, 2, 600, "mixed"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
def test_threads_change_no_bit_and_nothing_is_read_before_it_is_written(rows, dtype):
    """Rows of many segments and of one, and rows that no token takes."""
    case = drawn((2, 300, 300), rows, (dtype,))
    before, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)  # fresh memory is not a number
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(*case))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)
    for one, two, three in zip(*found, strict=True):
        assert one.isfinite().all() and torch.equal(one, two) and torch.equal(one, three)
    close(found[0], by_definition(*case), 1e-4 if dtype == FLOAT else 2e-2)


@pytest.mark.parametrize("parts", ["", "y", "y gate", "scale", "y shift"])
@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_any_part_may_be_absent(parts, norm):
    case = drawn((2, 9, 65), 3, norm=norm, parts=parts)
    close(results(*case), by_definition(*case), 1e-5)


def test_gradients_that_are_views():
    """A sum's gradient has no strides; a clip that is given to all has none between clips."""
    leaves, rest = drawn((1, 30, 40), 1)
    leaves["x"] = leaves["x"].detach().expand(3, 30, 40).requires_grad_()
    leaves["y"] = torch.randn(3, 30, 40).requires_grad_()

    def slopes():
        stream, out = adaptive_norm(**leaves, **rest)
        return torch.autograd.grad(stream.sum() + 2 * out.transpose(0, 1).square().sum(), list(leaves.values()))

    found = slopes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "serves", lambda *tensors: False)
        close(found, slopes(), 1e-5)


@pytest.mark.parametrize("rows", [1, 2, "mixed"])
def test_no_tokens_give_no_gradients(rows):
    case = drawn((2, 0, 40), rows)
    stream, out, dx, dy, *others = results(*case)
    assert stream.shape == out.shape == dx.shape == dy.shape == (2, 0, 40)
    assert len(others) == 5 and all(not t.any() for t in others)


def test_what_is_not_a_number_stays_so():
    for dtype in (FLOAT, HALF):
        x = torch.zeros(1, 4, 40, dtype=dtype)
        x[0, 1, 7], x[0, 2, 39] = torch.nan, torch.inf
        stream, out = adaptive_norm(x, torch.ones_like(x), norm="layer")
        assert stream.isnan().sum() == 1 and stream[0, 1, 7].isnan() and stream[0, 2, 39] == torch.inf
        assert out.isnan().all(-1).tolist() == [[False, True, True, False]]
        assert out[0, [0, 3]].isfinite().all()


def test_what_it_does_not_serve_is_left_to_torch(monkeypatch):
    assert serving.serves(torch.zeros(1), torch.zeros(1, dtype=HALF), None)
    assert not any(serving.serves(torch.zeros(1), torch.zeros(1, dtype=t)) for t in (torch.float16, torch.float64))
    case = drawn((2, 15, 40), 2)
    here = results(*case)
    monkeypatch.setattr(native, "status", lambda: (False, "not built: a test says so"))
    assert not serving.serves(torch.zeros(1))
    close(here, results(*case), 1e-5)


def test_the_native_operator_refuses_what_does_not_fit():
    x, index = torch.zeros(1, 4, 8), torch.zeros(1, 4, dtype=torch.int64)
    operator = torch.ops.phys4d.native_adaptive_norm
    with pytest.raises(RuntimeError, match="float32 or bfloat16 only"):
        operator(x.half(), None, None, None, None, None, None, None, 1, 1, 1e-6)
    with pytest.raises(RuntimeError, match=r"must be \[R, C\]"):
        operator(x, None, None, None, None, torch.zeros(3, 8), None, None, 2, 1, 1e-6)
    with pytest.raises(RuntimeError, match="share the tokens evenly"):
        operator(x, None, None, None, None, torch.zeros(3, 8), None, None, 3, 1, 1e-6)
    with pytest.raises(RuntimeError, match="contiguous int32"):
        operator(x, None, None, None, None, torch.zeros(3, 8), None, index, 3, 1, 1e-6)
