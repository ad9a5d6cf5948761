"""The study of gate, residual, norm and modulation on a CPU: cases, memory, and what the table says."""

import subprocess
import sys

import pytest

from phys4d.benchmarks import adaptive_norm, cpu_suite
from phys4d.benchmarks.adaptive_norm_cpu import CASES, best, measure, prepared, table
from phys4d.benchmarks.cases import ADAPTIVE_NORM


def test_every_case_comes_in_both_precisions() -> None:
    assert len(CASES) == len(set(CASES)) == 2 * len(ADAPTIVE_NORM)
    for case in CASES:
        made, found = prepared(case, 62)
        assert str(made.tokens["x"].dtype) == f"torch.{case.split(', ')[1]}" and {"ours", "eager"} <= found.keys()
        assert made.tokens["x"].shape[1] <= 62


@pytest.mark.slow
def test_memory_is_what_a_fresh_process_needs_more() -> None:
    """Both keep at least their two results and the gradients of both inputs, of 6 MiB each."""
    found = {}
    for rival in ("ours", "eager"):
        command = [sys.executable, "-m", "phys4d.benchmarks.adaptive_norm_cpu", "--memory", "wan-adaptive, bfloat16"]
        found[rival] = float(subprocess.check_output([*command, rival, "--shape", "1024"], text=True))
    assert 4 * 6 * 0.9 < found["ours"] < found["eager"] < 30 * 6


def test_rows_and_table_name_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"ours": 10.0, "eager": 30.0, "eager, rows": 40.0, "compiled": 20.0, "compiled, rows": 50.0}
    monkeypatch.setattr(cpu_suite, "memory", lambda kind, case, rival, shape: memory[rival])

    def pretended(found, modes):
        return {name.replace("eager", "compiled"): rival for name, rival in found.items() if name != "ours"}

    monkeypatch.setattr(adaptive_norm, "compilations", pretended)
    rows = measure("wan-adaptive-frames, float32", (62,), rounds=3, threads=(1, 2))
    assert [(row["backend"], row["threads"]) for row in rows] == [(name, n) for n in (1, 2) for name in memory]
    assert all(row["forward_ms"] > 0 and row["backward_ms"] > 0 and row["error"] < 1e-3 for row in rows)
    for row in rows:
        row["forward_ms"] = {"ours": 2.0, "eager, rows": 3.0, "eager": 4.0}.get(row["backend"], 1.0)
        row["backward_ms"] = {"ours": 2.0, "eager, rows": 5.0, "eager": 4.0}.get(row["backend"], 8.0)
    others = best(rows, rows[0], "eager")
    assert [others[key]["backend"] for key in others] == ["eager, rows", "eager", "eager"]
    text = table(rows)
    line = "2.0, 2.0 | 10 | 3.0, 4.0 | 30 | 1.50, 2.00, 3.00 | 1.0, 8.0 | 20 | 0.50, 4.00, 2.00 |"
    assert text.count(line) == 2 and text.count("\n| wan-adaptive-frames, float32 |") == 2
