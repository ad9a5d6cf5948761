"""Any number of workers and machines, stopped or killed: identical bytes, and no finished clip is lost."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from phys4d.engine.data.files.journal import JOURNAL, partial_folder
from phys4d.engine.data.tools.verify import verify
from phys4d.simulation.summary import Summary

SMALL = ["--clips", "7", "--size", "24", "--frames", "13", "--seed", "3", "--family", "fall", "--family", "collision"]


def command(out: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "phys4d", "simulate", "--out", str(out), *SMALL, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    out, problems = process.communicate(timeout=seconds)
    assert process.returncode == 0, problems
    return out


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def clips_of(folder: Path) -> list[dict[str, Any]]:
    """Rows of the index without the places of the clips, which hold the digests of their bytes."""
    rows = pq.read_table(folder / "index.parquet").drop(["shard"]).to_pylist()
    return [row | {"members": [member | {"offset": 0} for member in row["members"]]} for row in rows]


def written(out: Path) -> int:
    journal = partial_folder(out) / JOURNAL
    return journal.read_text().count("\n") - 1 if journal.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scale") / "whole"
    said = finish(command(out, "--workers", "1"))
    assert said.startswith("rigid: 7 clips")
    assert verify(out) == []
    return out


@pytest.mark.slow
def test_three_workers_write_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    finish(command(tmp_path / "three", "--workers", "3"))
    assert digests(tmp_path / "three") == digests(whole)


@pytest.mark.slow
@pytest.mark.parametrize("with_what", [signal.SIGKILL, signal.SIGINT])
def test_what_is_killed_or_stopped_goes_on_and_leaves_no_process(
    whole: Path, tmp_path: Path, with_what: signal.Signals
) -> None:
    out = tmp_path / "clips"
    process = command(out, "--workers", "2")
    while written(out) < 2 and process.poll() is None:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(with_what)
    _, said = process.communicate(timeout=60)
    if with_what == signal.SIGINT:
        assert process.returncode == 3 and "finished clips are kept" in said and "Traceback" not in said
    else:
        assert process.returncode == -signal.SIGKILL
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert not out.exists() and 2 <= written(out) < 7
    other = command(out, "--seed", "4")
    assert "begun with other settings" in other.communicate(timeout=60)[1] and other.returncode == 2
    finish(command(out, "--workers", "2"))
    assert digests(out) == digests(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


SLURM = pytest.param(("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), marks=[pytest.mark.slow])


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), SLURM])
def test_machines_that_share_a_folder_write_the_same_clips(whole: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    rank, size = names
    team = [command(tmp_path / "clips", "--workers", "1", **{rank: str(i), size: "2"}) for i in (1, 0)]
    for process in team:
        finish(process)
    assert clips_of(tmp_path / "clips") == clips_of(whole) and verify(tmp_path / "clips") == []
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


@pytest.mark.slow
def test_every_category_writes_the_same_bytes_with_any_number_of_workers_and_after_a_kill(tmp_path: Path) -> None:
    everything = ["--category", "all", "--clips", "18", "--size", "32", "--frames", "13", "--fps", "20", "--seed", "5"]

    def begun(name: str, workers: int) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "phys4d", "simulate", "--out", str(tmp_path / name), *everything]
        pipe = subprocess.PIPE
        return subprocess.Popen([*line, "--workers", str(workers)], stdout=pipe, stderr=pipe, text=True)

    for workers in (1, 2, 3):
        finish(begun(str(workers), workers), seconds=600)
    killed = begun("killed", 2)
    while written(tmp_path / "killed") < 7 and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    killed.communicate(timeout=60)
    assert 7 <= written(tmp_path / "killed") < 18
    finish(begun("killed", 3), seconds=600)
    for name in ("2", "3", "killed"):
        assert digests(tmp_path / name) == digests(tmp_path / "1")


def test_a_summary_counts_what_was_dropped_and_why() -> None:
    summary = Summary()
    for dropped, redrawn in (({"energy grows": 1}, {}), ({}, {"too little moves": 2}), ({"energy grows": 1}, {})):
        meta = {"category": "rope", "provenance": {"dropped": dropped, "redrawn": redrawn}}
        summary.count(json.loads(json.dumps(meta)))
    assert summary.lines() == ["rope: 3 clips; dropped 2: energy grows 2; drawn again 2: too little moves 2"]
