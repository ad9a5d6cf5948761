"""The benchmark of gate, residual, norm and modulation: peers compute the same, absent peers have a row."""

import dataclasses
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from phys4d.benchmarks import adaptive_norm as bench
from phys4d.benchmarks import elementwise, layer_norms
from phys4d.benchmarks.cases import ADAPTIVE_NORM
from phys4d.benchmarks.comparison import QUICK

CPU = torch.device("cpu")
NAMES = [case.name for case in ADAPTIVE_NORM]
KEYS = {
    "case", "backend", "part", "ms", "ms_p20", "ms_p80", "rounds", "host_ms", "tflops", "gbps", "floor_ms", "share",
    "peak_mb", "error", "deterministic", "compile_s",
}  # fmt: skip


def tiny(name, tokens=62):
    return bench.cut(next(case for case in ADAPTIVE_NORM if case.name == name), tokens)


def agree(found, expected) -> None:
    for name, (got, want) in {"stream": (found[0], expected[0]), "result": (found[1], expected[1])}.items():
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_rivals_compute_the_same_result_and_gradients(name) -> None:
    case = tiny(name)
    made = bench.inputs(case, CPU, torch.float32)
    found = bench.rivals(case, made)
    assert list(found)[:2] == ["ours", "eager"]
    assert ("eager, rows" in found) == (1 < case.rows < case.tokens)
    ours = found.pop("ours")
    expected = ours.forward()()
    gradients = dict(zip(ours.leaves, ours.backward(made.gradients)(), strict=True))
    for rival in found.values():
        agree(rival.forward()(), expected)
        for leaf, got in zip(rival.leaves, rival.backward(made.gradients)(), strict=True):
            want = gradients[leaf]
            if got.shape == (1, case.tokens, case.width) != want.shape:  # rows of all tokens: those that share one
                got = torch.zeros_like(want).index_add_(0, made.index[0], got[0])
            if got.shape != want.shape:  # Open-Sora's two rows
                assert made.masked is not None
                want = torch.zeros_like(got).index_add_(0, made.masked.flatten().long(), want)
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_that_of_the_result(name) -> None:
    """In float32 it is near 0: the float64 result uses the right row for every token."""
    case = tiny(name)
    made = bench.inputs(case, CPU, torch.float32)
    expected = bench.truth(made, slice(0, 40))
    for rival in bench.rivals(case, made).values():
        assert (rival.forward()()[1][:, :40].double() - expected).abs().max() < 1e-4


def test_small_cases_keep_their_width_and_how_rows_are_shared() -> None:
    for case in ADAPTIVE_NORM:
        small = elementwise.small(case)
        assert small.width == case.width and small.tokens <= 256 and small.tokens % small.rows == 0
        assert (small.rows == small.tokens) == (case.rows == case.tokens)


def rows_of(name, wanted=None):
    return elementwise.measure(elementwise.small(tiny(name)), CPU, dataclasses.replace(QUICK, wanted=wanted))


def test_rows_have_every_key_and_absent_peers_their_reason() -> None:
    rows = rows_of("opensora-adaptive")
    measured = [row for row in rows if "refused" not in row]
    assert {row["backend"] for row in measured} == {"ours", "eager", "eager, rows"}
    assert all(row.keys() == KEYS and row["deterministic"] and row["error"] < 1 for row in measured)
    refused = {row["backend"]: row["refused"] for row in rows if "refused" in row}
    assert refused.keys() == {
        "compiled", "FlashInfer, forward", *(f"eager, {name}" for name in layer_norms.NORMS)
    }  # fmt: skip
    assert all(refused.values())
    assert {row["backend"] for row in rows_of("wan-adaptive", ("ours",))} == {"ours"}


def test_a_peer_that_fails_has_a_row_with_the_reason(monkeypatch) -> None:
    def broken(*arguments):
        def norm(x):
            raise RuntimeError("out of luck")

        return norm

    monkeypatch.setitem(layer_norms.NORMS, "Liger LayerNorm", broken)
    refused = {row["backend"]: row.get("refused") for row in rows_of("wan-adaptive")}
    assert refused["eager, Liger LayerNorm"] == "RuntimeError: out of luck"


def stand_in(monkeypatch, name, **parts) -> None:
    """A module of that name with these parts, and modules for its parents."""
    whole = ""
    for word in name.split("."):
        whole = f"{whole}.{word}".lstrip(".")
        monkeypatch.setitem(sys.modules, whole, types.ModuleType(whole))
    for part, value in parts.items():
        setattr(sys.modules[name], part, value)


class TheirLayerNorm(torch.nn.LayerNorm):
    """With the arguments of TransformerEngine's."""

    def __init__(self, normalized_shape, eps, params_dtype):
        super().__init__(normalized_shape, eps=eps, dtype=params_dtype)


def fused_dit(input, residual, gate, scale, shift, *, epsilon):
    """What FlashInfer's computes, held to the strides that it asks for."""
    assert all(t.stride(1) == 6 * 3072 and t.dtype == torch.bfloat16 for t in (gate, scale, shift))
    stream = residual.float() + input.float() * gate.float()
    normed = F.layer_norm(stream, (3072,), None, None, epsilon)
    return stream.bfloat16(), (normed * (1 + scale.float()) + shift.float()).bfloat16()


@pytest.fixture
def peers(monkeypatch, tmp_path):
    """Stand-ins with the published names and signatures of all peers, on the CPU."""
    monkeypatch.setattr(layer_norms, "_needs_gpu", lambda like: None)
    stand_in(
        monkeypatch, "liger_kernel.transformers.functional",
        liger_layer_norm=lambda X, W, B, eps: F.layer_norm(X, W.shape, W, B, eps),
    )  # fmt: skip
    stand_in(monkeypatch, "transformer_engine.pytorch", LayerNorm=TheirLayerNorm)
    stand_in(monkeypatch, "flashinfer.diffusion_ops", fused_dit_gate_residual_layernorm_scale_shift=fused_dit)
    folder = tmp_path / "apex" / "normalization"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "fused_layer_norm.py").write_text(
        "import torch.nn.functional as F\n"
        "def fused_layer_norm(input, normalized_shape, eps=1e-6):\n"
        "    return F.layer_norm(input, normalized_shape, None, None, eps)\n"
        "def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6):\n"
        "    return F.layer_norm(input, normalized_shape, weight, bias, eps)\n"
    )
    stand_in(monkeypatch, "fused_layer_norm_cuda", forward=None)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["wan-adaptive", "wan-residual-norm", "cogvideox-adaptive", "opensora-adaptive"])
def test_peers_stand_where_the_layer_norm_stands(name, peers) -> None:
    found, rows = bench.makers(tiny(name), CPU)
    runners = {name: make() for name, make in found.items()}
    error = {name: runner.verdict()[0] for name, runner in runners.items()}
    refused = {row["backend"] for row in rows}
    served = {f"eager, {norm}" for norm in layer_norms.NORMS}
    assert served <= found.keys() and not served & refused
    for norm in served:
        assert error[norm] == pytest.approx(error["eager"], rel=0.5)
    if name == "wan-adaptive":  # its rows are rounded to bfloat16
        fused = "FlashInfer, forward"
        assert runners[fused].works.keys() == {"forward"} and error[fused] < 2 * error["eager"]
    else:
        assert "FlashInfer, forward" in refused


def test_another_package_named_apex_is_not_taken_for_nvidias(monkeypatch, tmp_path) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise RuntimeError('the namesake was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(layer_norms.Absent, match="not NVIDIA's"):
        layer_norms.apex(8, torch.ones(8), None, None)
