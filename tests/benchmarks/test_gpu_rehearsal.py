"""The run on a GPU rehearsed without one: all slices in few packages, without a home, killed, resumed, with faults."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phys4d.benchmarks.gpu_run import plan, stand_in
from phys4d.benchmarks.gpu_run.adopt import adopt
from phys4d.benchmarks.gpu_run.record import Record, RecordError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SLICES = [part.name for part in plan.slices()]
DONE, FAULTY, LEFT = 0, 1, 3


def command(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "phys4d.benchmarks.gpu_run", "rehearse", *arguments, "--out", str(out)]


def variables(home: Path) -> dict[str, str]:
    """Of the supervisor: no caches are named, and its home is empty."""
    home.mkdir(exist_ok=True)
    left = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in left} | {
        "HOME": str(home), "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def rehearse(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *arguments), capture_output=True, text=True, env=variables(out.parent / "home"))


def test_every_slice_runs_and_each_fault_costs_only_itself(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = rehearse(out, "check", "--minutes", "0.3")
    assert first.returncode == LEFT, first.stdout + first.stderr
    last = plan.named(["check"])[0].items[-1].name
    assert "left for the next call" in first.stdout and f"check {last}" in first.stdout

    plants = ["abort:flow-l1", "abort:wan-5b:naive", "memory:wan-1.3b:naive-compiled"]
    planted = [word for plant in plants for word in ("--plant", plant)]
    # The supervisor is killed while a case runs, when three are finished.
    began = time.monotonic()
    killed = subprocess.Popen(command(out, "attention", *planted), env=variables(tmp_path / "home"))
    file = out / "attention.json"
    while len(Record.read(file).cases) < 3:
        assert killed.poll() is None and time.monotonic() - began < 600
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = Record.read(file).cases
    assert 3 <= len(kept) < 9

    for _ in range(4):  # on a busy machine a slice may stop after its eight minutes
        whole = rehearse(out, *planted)
        if "left for the next call" not in whole.stdout:
            break
    assert whole.returncode == FAULTY, whole.stdout[-3000:] + whole.stderr
    assert {path.name for path in out.iterdir()} == {"log.txt", *(f"{name}.json" for name in SLICES)}
    assert len(list(out.iterdir())) <= 8
    records = {name: Record.read(out / f"{name}.json") for name in SLICES}
    for part in plan.slices():
        assert all(records[part.name].finished(item.name) for item in part.items), part.name
        assert records[part.name].about["stand_in"] and records[part.name].about["device"] == "cpu"

    attention = records["attention"].cases
    assert {name: attention[name] for name in kept} == kept, "finished cases are not measured again"
    refused = {row["backend"]: row for row in attention["wan-5b"]["rows"] if "refused" in row}
    assert refused["naive"]["refused"] == "its process ended by signal SIGABRT"
    assert {"triton", "auto", "sdpa"} <= {row["backend"] for row in attention["wan-5b"]["rows"] if "ms" in row}
    (memory,) = [r for r in attention["wan-1.3b"]["rows"] if r["backend"] == "naive-compiled" and "refused" in r]
    assert memory["wanted_mb"] == pytest.approx(stand_in.MEMORY_MIB, abs=10)
    assert "out of memory: it asked for 36,5" in memory["refused"]

    lost = [(name, case) for name, record in records.items() for case, found in record.cases.items()
            if found["state"] == "lost"]  # fmt: skip
    assert lost == [("geometry", "flow-l1"), ("check", "flow-l1")] or lost == [
        ("check", "flow-l1"), ("geometry", "flow-l1"),
    ]  # fmt: skip
    assert records["geometry"].cases["flow-l1"]["reason"] == "its process ended by signal SIGABRT"
    assert records["step"].cases["wan-step"]["state"] == "refused"
    assert "No module named" in records["step"].cases["wan-step"]["reason"]
    blocks = records["blocks"].cases
    assert all("diffusers cannot be imported" in row["refused"] for row in blocks["wan-block"]["rows"])
    assert any("ms" in row for row in blocks["opensora-temporal-block"]["rows"])
    assert records["tune"].cases["choices"]["table"]["classes"]
    assert all(row["passed"] for row in records["check"].rows())

    log = (out / "log.txt").read_text()
    for part in plan.slices():
        assert f"{part.seconds / 60:.1f} minutes predicted on an H200" in log, part.name
    essential = sum(part.seconds for part in plan.slices() if part.essential) / 60
    assert f"Essential slices together: {essential:.1f} minutes predicted on an H200" in log
    assert log.count("Rehearsal: no GPU") >= 3
    assert list((tmp_path / "home").iterdir()) == []
    with pytest.raises(RecordError, match="a rehearsal, whose figures no GPU produced"):
        adopt(out)
    assert rehearse(out).returncode == FAULTY, "a lost case stays lost until --again"


def test_a_case_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rehearse(out, "tune", "--plant", "hang:choices", "--least", "4")
    assert done.returncode == FAULTY and "choices: lost: no end after 4 s" in done.stdout
    found = json.loads((out / "tune.json").read_text())["cases"]["choices"]
    assert found["state"] == "lost" and 4 <= found["seconds"] < 60


def test_two_calls_do_not_use_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen(command(out, "tune", "--plant", "hang:choices"), env=variables(tmp_path / "home"))
    while not (out / "log.txt").exists() or not (out / "log.txt").read_text():
        time.sleep(0.1)
    second = rehearse(out, "tune")
    first.kill()
    first.wait()
    assert second.returncode == 2 and "another call is using this folder" in second.stderr
