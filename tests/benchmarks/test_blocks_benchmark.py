"""The benchmark of whole blocks: all variants compute the same, FLOPs are counted, a missing variant has a row."""

import json
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from phys4d.benchmarks import blocks as bench
from phys4d.benchmarks.cases import BLOCKS
from phys4d.benchmarks.comparison import QUICK, Effort
from phys4d.cli import main
from phys4d.kernels.attention import Full

CPU = torch.device("cpu")
SMALL = {case.name: bench.small(case) for case in BLOCKS}


@pytest.mark.parametrize("name", SMALL)
def test_every_variant_computes_the_same_block_and_gradients(name) -> None:
    """In float32, to 1e-5 of the largest number of each result and gradient."""
    case = SMALL[name]
    found = bench.variants(case, CPU, torch.float32)
    assert set(found) == {*bench.PARTS, *([bench.BY_FRAME] if case.model == "wan" else [])}
    stock = found.pop("stock")
    outs = stock.outs()
    given = bench.gradients_of(outs, torch.float32)
    gradients = stock.step(given)
    assert len(gradients) == len(stock.inputs) + len(stock.parameters)
    for variant in found.values():
        for got, want in zip((*variant.outs(), *variant.step(given)), (*outs, *gradients), strict=True):
            if got.shape != want.shape:  # a row a frame: the sum of those of its tokens
                want = want.unflatten(1, (got.shape[1], -1)).sum(2)
            assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", SMALL)
def test_flops_are_those_that_torch_counts(name) -> None:
    """Of the stock block, forward, with attention as matrix products; the small CogVideoX also has its modulation."""
    stock = bench.variants(SMALL[name], CPU, torch.float32)["stock"]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        stock.outs()
    assert counter.get_total_flops() == pytest.approx(SMALL[name].flops("forward"), rel=0.08)
    case = next(case for case in BLOCKS if case.name == name)
    ratio = case.flops("forward and backward") / case.flops("forward")
    assert 3 < ratio < (3.5 if isinstance(case.pattern, Full) else 3.2)


def test_open_soras_frames_take_the_modulation_that_their_mask_names() -> None:
    """All frames masked as given: the block is that of timestep 0 alone."""
    variant = bench.variants(SMALL["opensora-spatial-block"], CPU, torch.float32)["ours, both"]
    masked = torch.zeros_like(variant.rest["masked"])
    expected = variant.call(**variant.inputs | {"t": variant.inputs["t0"]}, masked=~masked)
    torch.testing.assert_close(variant.call(**variant.inputs, masked=masked), expected)


def test_a_quick_run_has_rows_with_every_key(tmp_path, capsys) -> None:
    arguments = ["--device", "cpu", "--quick", "--case", "opensora-temporal-block", "--out", str(tmp_path)]
    assert main(["bench", "blocks", *arguments]) == 0
    rows = json.loads((tmp_path / "blocks.json").read_text())["rows"]
    measured = [row for row in rows if "refused" not in row]
    assert [(row["backend"], row["part"]) for row in measured] == [
        (name, part) for part in ("forward", "forward and backward") for name in bench.PARTS
    ]
    for row in measured:
        assert row.keys() == {
            "case", "backend", "part", "ms", "ms_p20", "ms_p80", "rounds", "host_ms", "tflops", "gbps", "floor_ms",
            "share", "peak_mb", "error", "deterministic", "compile_s", "predicted_ms",
        }  # fmt: skip
        assert row["ms"] > 0 and row["tflops"] > 0 and 0 < row["error"] < 0.02 and row["deterministic"]
    assert {row["backend"] for row in rows if "refused" in row} == set(bench.COMPILED)
    assert "forward and backward" in (tmp_path / "blocks.svg").read_text()
    assert "- not compiled: measured on CUDA only" in capsys.readouterr().out


def test_without_diffusers_its_blocks_say_so_and_open_soras_runs(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    rows = bench.measure(SMALL["wan-block"], CPU, QUICK)
    assert {row["backend"] for row in rows} == {*bench.PARTS, bench.BY_FRAME, *bench.COMPILED}
    assert all("diffusers cannot be imported" in row["refused"] for row in rows)
    rows = bench.measure(SMALL["opensora-spatial-block"], CPU, Effort(10, 1.0, wanted=("ours, both",)))
    assert {row["part"] for row in rows if "ms" in row} == {"forward", "forward and backward"}


def test_a_variant_that_fails_has_a_row_with_the_reason(monkeypatch) -> None:
    runner = bench._runner

    def failing(variant, truth):
        if getattr(variant.call, "norm", "") == "ours":
            raise RuntimeError("out of memory")
        return runner(variant, truth)

    monkeypatch.setattr(bench, "_runner", failing)
    rows = bench.measure(SMALL["opensora-spatial-block"], CPU, QUICK)
    refused = {row["backend"]: row["refused"] for row in rows if row.get("refused", "").startswith("RuntimeError")}
    assert refused == dict.fromkeys(("ours, adaptive norm", "ours, both"), "RuntimeError: out of memory")
