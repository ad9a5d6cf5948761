"""A sample of the mutants and the named faults, run as developers run all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = 40


@pytest.mark.slow
def test_every_survivor_of_a_sample_is_explained(repository: Path, tmp_path: Path) -> None:
    """Which is drawn by a fixed seed; `python -m tests.mutate` runs all and holds the share of survivors to 5 %."""
    command = [sys.executable, "-m", "tests.mutate", "--sample", f"{SAMPLE}", "--out", str(tmp_path)]
    status = ["git", "status", "--porcelain"]
    before = subprocess.run(status, cwd=repository, capture_output=True, text=True).stdout
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    modules = json.loads((tmp_path / "mutants.json").read_text())
    assert sum(module["run"] for module in modules) == SAMPLE
    assert "| all | 40 | 40 |" in (tmp_path / "mutants.md").read_text()
    assert subprocess.run(status, cwd=repository, capture_output=True, text=True).stdout == before


@pytest.mark.slow
def test_every_named_fault_is_noticed(repository: Path) -> None:
    """Those that passed all tests once: signs, weights and terms of losses, masks, initial weights, the shift."""
    command = [sys.executable, "-m", "tests.mutate", "--named"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and "SURVIVED" not in done.stdout, done.stdout + done.stderr
    assert len(lines) >= 9 and all(line.startswith("noticed: ") for line in lines)
