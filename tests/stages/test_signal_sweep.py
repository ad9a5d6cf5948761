"""A signal at any moment of a command, from its start to its end: one line, the documented exit code, nothing lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from phys4d.cli import main
from phys4d.engine.data.files.journal import JOURNAL, partial_folder
from tests.engine.reproducible import reproducible

pytestmark = pytest.mark.slow

MOMENTS = 10  # of each command: one in each tenth of its time
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SCENES = ("--family", "fall", "--frames", "9", "--fps", "8", "--size", "16", "--workers", "1")
Command = Callable[[Path], list[str]]
Result = Callable[[Path], Any]


class Ended:
    """How a process ended that got a signal so many seconds after its start, or none.

    since: a file or folder that the command writes; the seconds then count from the moment at which it is there.
    """

    def __init__(
        self, words: list[str], after: float | None = None, number: signal.Signals = signal.SIGTERM,
        since: Path | None = None,
    ) -> None:  # fmt: skip
        command = [sys.executable, "-m", "phys4d", *words]
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        begun = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as job:
            while since is not None and not since.exists() and job.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    job.wait(0.02)
                begun = time.monotonic()
            if after is not None:
                try:
                    job.wait(after)
                except subprocess.TimeoutExpired:
                    job.send_signal(number)
            _, self.errors = job.communicate(timeout=300)
        self.code, self.seconds = job.returncode, time.monotonic() - begun

    @property
    def line(self) -> str:
        """The one line of the program."""
        (line,) = [line for line in self.errors.splitlines() if line.startswith("phys4d: ")]
        return line


def sweep(
    command: Command, result: Result, out: Path, since: Path | None = None, moments: int = MOMENTS
) -> dict[int, int]:
    """Runs `command(out)` with a signal in each part of its time, then again to its end; how often each code came.

    since: counts the time from its appearance on, as in `Ended`; a machine that becomes slower then moves no signal out
        of the work into the start. moments: the number of parts.
    """
    whole = Ended(command(out), since=since)
    assert whole.code == 0, whole.errors
    expected, draw, codes = result(out), random.Random(0), dict.fromkeys((0, 3, 130), 0)
    for moment in range(moments):
        shutil.rmtree(out)
        number, after = SIGNALS[moment % len(SIGNALS)], whole.seconds * (moment + draw.random()) / moments
        ended = Ended(command(out), after, number, since)
        where = f"{number.name} after {after:.2f} of {whole.seconds:.2f} s: {ended.code}\n{ended.errors}"
        if ended.code < 0:  # before the program's first line of its own the signal acts as on any process
            assert ended.code == -number and ended.errors == "" and not (out.exists() and any(out.iterdir())), where
            continue
        assert ended.code in codes and "Traceback" not in ended.errors, where
        codes[ended.code] += 1
        if ended.code:
            causes = (f"phys4d: stopped by {number.name}: ", "phys4d: stopped by a signal in stage ")
            assert ended.line.startswith(causes), where
            assert ended.line.endswith("is not kept") == (ended.code == 130), where
            assert Ended(command(out)).code == 0, where
        assert result(out) == expected, where
    assert codes[3] + codes[130] >= moments // 2, codes
    return codes


def trained(out: Path) -> dict[str, Any]:
    """Weights, figures and evaluations of a finished run."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    return {
        "weights": {str(path.relative_to(out)): path.read_bytes() for path in out.glob("model-*/**/*.safetensors")},
        "logged": [reproducible(line) for line in lines],
        "evaluated": summary["stages"],
    }


def shards(out: Path) -> list[bytes]:
    """The shards of a dataset or a cache."""
    return [path.read_bytes() for path in sorted(out.glob("*.tar"))]


def test_train(write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def command(folder: Path) -> list[str]:
        run = write_run(tmp_path / "run.toml", folder, clips, ["backbone", "pretrain"])
        sets = [word for stage in ("backbone", "pretrain") for word in (
            "--set", f"{stage}.loop={{steps=10, log_every=1, checkpoint_every=3}}"
        )]  # fmt: skip
        return ["train", str(run), *sets, *(["--resume"] if (folder / "config.toml").exists() else [])]

    assert sweep(command, trained, out)[3] > 0


def evaluated(out: Path) -> list[Any]:
    """The tables of an evaluation, which is written at its end."""
    return [json.loads(path.read_text()) for path in sorted(out.rglob("*.json"))]


def test_evaluate(write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "run", clips, ["backbone", "pretrain"])
    assert main(["train", str(run), "--set", "evaluate.samples=1"]) == 0

    def command(out: Path) -> list[str]:
        out.mkdir(exist_ok=True)
        often = ["--scenes", "8", "--samples", "60", "--out", str(out / "table.json")]
        return ["evaluate", str(tmp_path / "run" / "model-pretrain"), "--data", str(clips), *often]

    assert sweep(command, evaluated, tmp_path / "out")[130] >= MOMENTS // 2


def test_the_evaluation_at_the_end_of_a_stage(write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> None:
    """The signals come from the moment on at which the model of the stage is written."""
    out = tmp_path / "out"

    def command(folder: Path) -> list[str]:
        run = write_run(tmp_path / "run.toml", folder, clips, ["backbone", "pretrain"])
        sets = ["--set", "evaluate.samples=60", "--set", "evaluate.scenes=8"]
        return ["train", str(run), *sets, *(["--resume"] if (folder / "config.toml").exists() else [])]

    assert sweep(command, trained, out, since=out / "model-pretrain")[3] >= MOMENTS // 2


def test_simulate(tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        return ["simulate", "--out", str(out), "--clips", "12", *SCENES]

    out = tmp_path / "out"
    sweep(command, shards, out)
    shutil.rmtree(out)
    assert sweep(command, shards, out, partial_folder(out) / JOURNAL, MOMENTS // 2)[3] > 0


def test_label(tmp_path: Path) -> None:
    for name, seed in (("videos", "1"), ("scenes", "2")):
        assert main(["simulate", "--out", str(tmp_path / name), "--clips", "4", "--seed", seed, *SCENES]) == 0
    teacher = ["--scenes", str(tmp_path / "scenes"), "--steps", "20", "--set", "depth.batch=1", "--workers", "1"]
    sweep(
        lambda out: ["label", "--videos", str(tmp_path / "videos"), "--out", str(out), *teacher],
        shards,
        tmp_path / "out",
    )


def test_encode(clips: Path, tmp_path: Path) -> None:
    data = shutil.copytree(clips, tmp_path / "clips")

    sweep(lambda out: ["data", "encode", str(data), "--model", "tiny"], shards, data / "cache")
