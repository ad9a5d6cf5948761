"""Faults of a run on several ranks: each ends in one line on one rank, or costs one step.

| fault | line | tested in |
|---|---|---|
| a rank is killed | rank 1 ended during step 3 | tests/stages/test_hangs.py, test_two_nodes.py |
| a rank gets SIGSTOP | rank 1 gave no sign of life for 3 s | tests/stages/test_hangs.py |
| a rank hangs | rank 1 passed the time limit of step 3 | tests/stages/test_hangs.py |
| the cable is cut | the same of both sides | test_two_nodes.py |
| the disk fills up | cannot be written: No space left on device | tests/stages/test_disk.py |
| the same while training goes on | the same | here, tests/engine/test_background_save.py |
| a batch of one rank is not finite | skipped_step, with the keys of every rank, in metrics.jsonl | here |
| the newest checkpoint is damaged | is damaged ...: --resume=previous ... | here, test_damage.py |
| a mesh that does not divide | replicate 3 = 3 does not divide 2 processes | here |
| a backend that is absent | model.attention: ... | here, tests/stages/test_refusals.py |
| a strategy that is absent | parallel.strategy: needs the package | tests/engine/test_deepspeed.py |
| a clip that cannot be read | clip clip3: mp4 ... | tests/stages/test_disk.py, test_bad_clips.py |
| a loss that leaps | the loss of step 31 is 30.1, usually 1.02 | here, tests/engine/test_spikes.py |
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Start = Callable[..., dict[str, Any]]


@pytest.fixture
def start(session: Start, write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> Start:
    """Trains `backbone` on two ranks, with a checkpoint at every second step."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone"])
    run.write_text(run.read_text().partition("[evaluate]")[0])

    def with_changes(*arguments: str, **options: Any) -> dict[str, Any]:
        changes = ["backbone.batch=4", "backbone.loop={steps=6, log_every=2, checkpoint_every=2}", *arguments]
        words = [word for change in changes for word in ((change,) if change.startswith("--") else ("--set", change))]
        return session("train", run, *words, ranks=2, **options)

    return with_changes


def the_line(ended: dict[str, Any]) -> str:
    """The only line of phys4d that the ranks of a refused run printed together."""
    assert ended["codes"] == [2, 2] and not any("Traceback" in text for text in ended["errors"]), ended
    (line,) = [line for text in ended["errors"] for line in text.splitlines() if line.startswith("phys4d: ")]
    return line.removeprefix("phys4d: error: ")


def test_a_batch_of_one_rank_that_is_not_finite_costs_one_step_of_all(start: Start, tmp_path: Path) -> None:
    ended = start(poison={"rank": 1, "step": 3})
    assert ended["codes"] == [0, 0], ended["errors"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    (note,) = [line for line in lines if "skipped_step" in line]
    assert (note["step"], note["skipped_step"]) == (4, "gradient not finite")
    assert len(note["samples"].split()) == 4 and all(name.startswith("clip") for name in note["samples"].split())
    logged = [line for line in lines if "loss" in line]
    # The checkpoint that is due at step 4 waits for step 5.
    assert [(line["step"], line.get("skipped_steps")) for line in logged] == [(2, None), (4, 1.0), (5, None), (6, None)]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in logged)


def test_an_outlier_in_the_batch_of_one_rank_is_named_with_the_samples_of_all(start: Start, tmp_path: Path) -> None:
    ended = start("backbone.loop={steps=40, log_every=10}", poison={"rank": 1, "step": 30, "factor": 1e3})
    assert ended["codes"] == [0, 0], ended["errors"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    (note,) = [line for line in lines if "loss_spike" in line]
    assert note["step"] == 31 and note["loss_spike"] > 1000 * note["loss_usual"] > 0
    assert re.fullmatch(r"rank 0: clip\d clip\d; rank 1: clip\d clip\d", note["samples"])
    said = f"the loss of step 31 is {note['loss_spike']:.4g}, usually {note['loss_usual']:.4g}, computed from"
    assert f"backbone: {said} {note['samples']}" in ended["errors"][0] and said not in ended["errors"][1]


def test_a_damaged_newest_checkpoint_is_one_line_and_the_one_before_is_offered(start: Start, tmp_path: Path) -> None:
    """In the file of the second rank, which the first reads, too."""
    ended = start(kill={"stage": "backbone", "step": 5})
    assert ended["codes"] == [-9, -9], ended["errors"]
    file = tmp_path / "out" / "checkpoint-backbone-4" / "__1_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    offer = "copy it again, or --resume=previous, which removes it and goes on from checkpoint-backbone-2"
    expected = f"{file}: is damaged, its SHA-256 is not that in manifest.json: {offer}"
    assert the_line(start("--resume")) == expected
    again = start("--resume=previous")
    assert again["codes"] == [0, 0], again["errors"]


REFUSED = {
    "parallel.replicate=3": "parallel: replicate 3 x context 1 = 3 does not divide 2 processes: change [parallel], or "
    "the number of processes",
    "parallel={shard=4}": "parallel: replicate 1 x context 1 x shard 4 = 4 is not 2 processes: change [parallel], or "
    "the number of processes",
    "model.attention=triton": "model.attention: backend 'triton' cannot serve this call: its kernels run on CUDA, the "
    'tensors are on cpu: set another, or "auto"',
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_cannot_run_is_one_line_before_anything_starts(start: Start, tmp_path: Path, change: str) -> None:
    assert the_line(start(change)) == REFUSED[change]
    assert not (tmp_path / "out").exists()
