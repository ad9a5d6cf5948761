"""Killed at any instant, by any signal, on any ranks, a run ends as one to which nothing happened.

`make chaos` prints each kill: the signal, its ranks, the instant, how each rank ended, and from where the run goes on.
"""

import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phys4d.engine import integrity
from phys4d.engine.run_folder.metrics import read_metrics
from tests.engine.reproducible import reproducible

pytestmark = pytest.mark.slow

Session = Callable[..., dict[str, Any]]
STEPS = {"backbone": 12, "pretrain": 12, "finetune": 12, "reinforce": 4}
KINDS = ("one rank", "all ranks", "one rank while it saves", "SIGTERM", "SIGUSR1")
EACH = 5  # kills of each kind on two ranks
SIZES = (2, 1, 3)  # ranks of the sessions of a run that changes their number
RESIZED = (*KINDS, "one rank while it saves")  # kills of such runs
MOST = 5  # kills of one run
SHARE = 0.4  # of the whole run, within which a session is killed
SAVING = 0.1  # seconds within which the signal comes after a checkpoint is begun
SEED = 2026


class Chaos:
    """Runs of one kind, killed and resumed until each has ended; `kills` counts."""

    def __init__(self, session: Session, draw: random.Random, say: Callable[[str], None]) -> None:
        self._session, self._draw, self._say = session, draw, say
        self.kills = 0

    def hit(self, kind: str, ranks: int, seconds: float) -> dict[str, Any]:
        """A signal of this kind within a session that will take about so many seconds."""
        one = [self._draw.randrange(ranks)]
        wanted = {"signal": int(signal.SIGKILL), "ranks": one, "after": self._draw.uniform(0, seconds)}
        if kind.startswith("SIG"):
            wanted |= {"signal": int(signal.Signals[kind]), "ranks": list(range(ranks))}
        if kind == "all ranks":
            wanted["ranks"] = list(range(ranks))
        if kind == "one rank while it saves":
            wanted |= {"after": self._draw.uniform(0, SAVING), "save": self._draw.randrange(1, 5)}
        return wanted

    def survive(
        self, run: Path, folder: Path, words: list[str], plan: Iterator[tuple[str, int]], whole: float, steps: int
    ) -> None:
        """Runs and resumes a run to its end.

        plan: kind of the next kill, and number of ranks. whole, steps: seconds and steps of the whole run.
        """
        while True:
            kind, ranks = next(plan, ("none", 2))
            resume = ["--resume"] if (folder / "config.toml").exists() else []
            left = 1 - len(logged(folder)) / (steps + 1)
            hit = {} if kind == "none" else {"chaos": self.hit(kind, ranks, whole * min(left, SHARE))}
            begun = time.monotonic()
            ended = self._session("train", run, *words, *resume, ranks=ranks, **hit)
            taken = time.monotonic() - begun
            assert_readable(folder)
            if ended["codes"] == [0] * ranks:
                self._say(f"ended on {ranks} ranks after {taken:.1f} s{'' if kind == 'none' else f', before {kind}'}")
                return
            self.kills += 1
            assert_orderly(ended, hit["chaos"])
            latest = folder / "latest"
            goes_on = latest.read_text().strip() if latest.exists() else "the beginning"
            struck = ", ".join(map(str, hit["chaos"]["ranks"]))
            at = f"{hit['chaos']['after']:.2f} s after " + ("a save began" if "save" in hit["chaos"] else "the start")
            self._say(
                f"kill {self.kills}: {kind} (of {ranks}: {struck}), {at}: exit codes {ended['codes']}, {taken:.1f} s; "
                f"goes on from {goes_on}"
            )


def assert_orderly(ended: dict[str, Any], chaos: dict[str, Any]) -> None:
    """A rank that was killed could say nothing; the others ended resumably, in a line without a traceback.

    It is the line of the first rank, or where that is gone of each of the others.
    """
    for rank, code in enumerate(ended["codes"]):
        if chaos["signal"] == signal.SIGKILL and rank in chaos["ranks"]:
            assert code == -signal.SIGKILL, (rank, ended)
        else:
            assert code == 3 and "Traceback" not in ended["errors"][rank], (rank, ended)
    said = [line for text in ended["errors"] for line in text.splitlines() if line.startswith("phys4d: ")]
    survived = sum(code == 3 for code in ended["codes"])
    assert min(1, survived) <= len(said) <= survived, ended
    assert all("--resume goes on" in line for line in said), said


def assert_readable(folder: Path) -> None:
    """`latest` names a whole checkpoint, and every checkpoint that is there is whole."""
    if (folder / "latest").exists():
        assert (folder / (folder / "latest").read_text().strip()).is_dir()
    for path in folder.glob("checkpoint-*"):
        integrity.check(path, "")


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of training without what depends on the clock."""
    lines, _ = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else ([], 0)
    return [reproducible(line) for line in lines if "grad_norm" in line]


def assert_same(folder: Path, expected: Path) -> None:
    """Log, weights and checkpoints are those of the run to which nothing happened, to the bit.

    A signal makes a checkpoint of its own, which takes an older one's place: those that both hold are compared.
    """
    assert logged(folder) == logged(expected)
    files = sorted(expected.glob("model-*/**/*.safetensors"))
    assert len(files) == 11
    for path in files:
        theirs, ours = load_file(path), load_file(folder / path.relative_to(expected))
        assert theirs.keys() == ours.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs), path
    newest = (expected / "latest").read_text().strip()
    assert (folder / "latest").read_text().strip() == newest
    both = [path for path in sorted(expected.glob("checkpoint-*")) if (folder / path.name).is_dir()]
    names = [name.relative_to(expected) for path in both for name in sorted(path.glob("*.distcp"))]
    assert any(name.parts[0] == newest for name in names)
    assert all((folder / name).read_bytes() == (expected / name).read_bytes() for name in names)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line past pytest."""

    def printed(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end="", flush=True)

    return printed


def test_two_ranks_end_bit_identical(
    session: Session, write_run: Callable[..., Path], clips: Path, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """All four stages with their evaluations."""
    loops = [f"{s}.loop={{steps={n}, log_every=1, checkpoint_every=2}}" for s, n in STEPS.items()]
    words = [word for loop in (*loops, "timeouts={silence=20}") for word in ("--set", loop)]

    def run(name: str) -> tuple[Path, Path]:
        return write_run(tmp_path / f"{name}.toml", tmp_path / name, clips, list(STEPS)), tmp_path / name

    file, whole = run("whole")
    begun = time.monotonic()
    ended = session("train", file, *words, ranks=2)
    seconds = time.monotonic() - begun
    assert ended["codes"] == [0, 0], ended["errors"]
    say(f"the whole run: {seconds:.1f} s")
    draw = random.Random(SEED)
    kinds = [kind for kind in KINDS for _ in range(EACH)]
    draw.shuffle(kinds)
    chaos, runs = Chaos(session, draw, say), 0
    while chaos.kills < len(kinds):
        file, folder = run(f"run-{runs}")
        plan = ((kinds[chaos.kills], 2) for _ in range(MOST) if chaos.kills < len(kinds))
        chaos.survive(file, folder, words, plan, seconds, sum(STEPS.values()))
        assert_same(folder, whole)
        runs += 1
    say(f"{chaos.kills} kills over {runs} runs on two ranks: every run as the whole one, to the bit")


def test_two_one_and_three_ranks_take_the_same_steps(
    session: Session, write_run: Callable[..., Path], clips: Path, tmp_path: Path, say: Callable[[str], None]
) -> None:
    settings = ("backbone.batch=6", "backbone.loop={steps=20, log_every=1, checkpoint_every=2}")
    words = [word for setting in (*settings, "timeouts={silence=20}") for word in ("--set", setting)]

    def run(name: str) -> tuple[Path, Path]:
        file = write_run(tmp_path / f"{name}.toml", tmp_path / name, clips, ["backbone"])
        file.write_text(file.read_text().partition("[evaluate]")[0])
        return file, tmp_path / name

    file, whole = run("whole")
    begun = time.monotonic()
    ended = session("train", file, *words)
    seconds = time.monotonic() - begun
    assert ended["codes"] == [0], ended["errors"]
    expected = logged(whole)
    draw = random.Random(SEED)
    kinds = draw.sample(RESIZED, len(RESIZED))
    chaos, runs = Chaos(session, draw, say), 0
    while chaos.kills < len(kinds):
        file, folder = run(f"run-{runs}")
        sizes = itertools.cycle(SIZES)
        plan = ((kinds[chaos.kills], next(sizes)) for _ in kinds if chaos.kills < len(kinds))
        chaos.survive(file, folder, words, plan, seconds, len(expected))
        found = logged(folder)
        assert [line["step"] for line in found] == [line["step"] for line in expected] == list(range(1, 21))
        for name in ("loss", "clean_mse", "grad_norm"):
            assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-5), name
        runs += 1
    say(f"{chaos.kills} kills over {runs} runs on 2, 1 and 3 ranks: the losses of one process within 1e-5")
