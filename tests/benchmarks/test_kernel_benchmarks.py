"""Benchmarks of kernels: counted pairs and bytes, the order of timing, and the files that they write."""

import json

import pytest
import torch

from phys4d.benchmarks import attention as bench
from phys4d.benchmarks.attention_truth import sampled_truth
from phys4d.benchmarks.cases import ATTENTION, NORM_ROPE
from phys4d.benchmarks.comparison import Effort
from phys4d.benchmarks.run import table
from phys4d.benchmarks.timing import Timing, flushes, interleaved
from phys4d.cli import main
from phys4d.kernels.attention import Full, Spatial, Temporal, allowed, attention_reference
from phys4d.kernels.attention.patterns import Window

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_pairs_and_bytes_are_counted_from_the_shape(case) -> None:
    case = bench.small(case)
    text = (case.words, "first") if case.words else None
    visible = allowed(case.pattern, case.grid, text)
    assert case.pairs == case.batch * case.heads * int(visible.sum())
    assert case.flops("forward") == case.pairs * case.dim * 4 and case.flops("backward") == case.pairs * case.dim * 10
    assert case.bytes("forward") == 4 * 2 * case.batch * case.tokens * case.heads * case.dim


def test_the_floors_of_the_named_cases_are_those_that_were_worked_out() -> None:
    """Milliseconds at 790 TFLOP/s and 4.3 TB/s, forward and backward, from the table of anchors."""
    known = {
        "wan-5b": (11.6, 28.9), "cogvideox-5b": (4.9, 12.3), "wan-1.3b": (8.3, 20.9), "opensora-spatial": (1.13, 2.83),
        "opensora-temporal-720p": (0.116, 0.203), "opensora-temporal-480p": (0.102, 0.179),
        "opensora-temporal-norm": (0.116, 0.203), "temporal-stress": (4.5, 7.9), "wan-window": (1.4, 3.5),
    }  # fmt: skip
    for case in ATTENTION:
        for part, expected in zip(("forward", "backward"), known[case.name], strict=True):
            floor = max(case.flops(part) / 790e9, case.bytes(part) / 4.3e9)
            assert floor == pytest.approx(expected, rel=0.03), (case.name, part)
    wan = next(case for case in NORM_ROPE if case.name == "wan-norm-rope")
    assert wan.bytes("forward") / 4.3e9 == pytest.approx(0.156, rel=0.01)
    assert wan.bytes("backward") / 4.3e9 == pytest.approx(0.234, rel=0.01)


@pytest.mark.parametrize("pattern", [Full(), Spatial(), Temporal(causal=True), Window(2, 2, 3)])
def test_the_sampled_truth_is_the_definition(pattern) -> None:
    case = bench.AttentionCase("case", "a model", pattern, 2, (3, 2, 4), 2, 8, words=3)
    q, k, v = torch.randn(3, 2, case.tokens, 2, 8, generator=torch.Generator().manual_seed(0))
    queries = torch.tensor([0, 2, 3, 11, 26])
    truth, _ = attention_reference(
        q.double(), k.double(), v.double(), grid=case.grid, pattern=pattern, text=(3, "first")
    )
    found = sampled_truth(case, q, k, v, queries=queries)
    torch.testing.assert_close(found, truth[:, queries], rtol=0, atol=1e-12)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_norm_and_rotation_by_hand_are_those_of_the_kernels_and_the_truth(compiled: bool) -> None:
    case = bench.small(next(case for case in ATTENTION if case.lanes))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, case.tokens, 2, case.dim, generator=generator) for _ in range(3))
    weights = [torch.randn(case.dim, generator=generator) for _ in range(2)]
    attends, _ = bench.peers(case, [q, k, v], None)
    if not compiled:
        attends.pop("flex")
    queries = torch.arange(0, case.tokens, 7)
    truth = sampled_truth(case, q, k, v, *weights, queries=queries)
    assert {"naive", "auto", "sdpa", "reference"} <= attends.keys()
    for name, attend in attends.items():
        error = (attend(q, k, v, *weights)[:, queries] - truth).abs().max()
        assert error < 2e-5, name


def test_rivals_take_turns() -> None:
    calls: list[str] = []
    rivals = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = interleaved(rivals, CPU, rounds=4, seconds=10, warm_up=1)
    assert calls == ["a", "b", *["a", "b"] * 4] and set(times) == {"a", "b"}
    assert times["a"].p20 <= times["a"].median <= times["a"].p80
    calls.clear()
    interleaved(rivals, CPU, rounds=1000, seconds=0, warm_up=0)
    assert calls == ["a", "b"] * 3


def test_percentiles_are_those_of_the_rounds() -> None:
    assert Timing.of([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == Timing(3.5, 2.0, 5.0, rounds=6)
    assert Timing.of([3.0], [0.5, 0.1, 0.2]) == Timing(3.0, 3.0, 3.0, 0.2)


def test_the_device_is_busy_until_the_host_has_launched() -> None:
    for host in (0.0, 0.02, 0.3, 1.7):
        assert 2 * host < flushes(host, 0.06) * 0.06 <= 2 * host + 3 * 0.06
    assert flushes(1e4, 0.06) == 100


def test_a_quick_run_writes_rows_and_tables(tmp_path, capsys) -> None:
    arguments = ["--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert main(["bench", "attention", "--case", "opensora-temporal-720p", *arguments]) == 0
    assert main(["bench", "elementwise", "--case", "opensora-norm-rope", *arguments]) == 0
    for kind, ours in (("attention", "auto"), ("elementwise", "ours")):
        result = json.loads((tmp_path / f"{kind}.json").read_text())
        rows = [row for row in result["rows"] if row["backend"] == ours]
        assert {row["part"] for row in rows} == {"forward", "backward"}
        for row in rows:
            assert row["ms"] > 0 and row["error"] < 0.1 and row["share"] is None and row["deterministic"]
        assert result["provenance"]["torch"] == torch.__version__
        text = (tmp_path / f"{kind}.md").read_text()
        assert f"| {ours} | forward |" in text and f"torch {torch.__version__}" in text
        assert (result["kind"], result["device"], result["dtype"]) == (kind, "cpu", "bfloat16")
        assert f">{ours}</text>" in (tmp_path / f"{kind}.svg").read_text()
    captured = capsys.readouterr()
    assert "small shapes, which say nothing of any GPU" in captured.err
    assert "- not triton: its kernels run on CUDA" in captured.out


def test_the_table_is_sorted_by_time_and_names_who_could_not() -> None:
    row = {
        "case": "c", "part": "forward", "ms_p20": 1.0, "ms_p80": 2.0, "tflops": None, "gbps": 1.0, "share": 0.5,
        "peak_mb": 3.0, "error": 0.001, "deterministic": False,
    }  # fmt: skip
    rows = [{"backend": "slow", "ms": 2.0}, {"backend": "fast", "ms": 1.0}]
    text = table([*(row | name for name in rows), {"case": "c", "backend": "none", "refused": "no reason"}])
    assert text.index("| fast |") < text.index("| slow |") < text.index("- not none: no reason")
    assert "50%" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["attention", "--case", "unknown"], "--case unknown: expected one of wan-5b"), (["--case"], "usage")],
)
def test_what_cannot_be_measured_is_refused_with_a_line(arguments, message, capsys) -> None:
    try:
        assert main(["bench", *arguments]) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert message in capsys.readouterr().err


def test_a_backend_that_approximates_is_timed_forward_alone():
    case = bench.small(next(case for case in ATTENTION if case.dim == 64))
    effort = Effort(rounds=1, seconds=0.1, warm_up=1, wanted=("int8", "sdpa"))
    rows = bench.measure(case, torch.device("cpu"), effort)
    assert {(row["backend"], row["part"]) for row in rows} == {
        ("int8", "forward"), ("sdpa", "forward"), ("sdpa", "backward")
    }  # fmt: skip
    errors = {row["backend"]: row["error"] for row in rows}
    assert errors["sdpa"] < errors["int8"] < 0.05 and all(row["deterministic"] for row in rows)
