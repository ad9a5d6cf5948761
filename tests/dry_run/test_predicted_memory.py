"""Predicted memory against what a step takes on real tensors, and against the memory of a process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phys4d.dry_run.model import source_of
from phys4d.dry_run.prediction import Prediction, predict
from phys4d.engine.costs.gpus import GPUS
from phys4d.stages.run_file import RunConfig

SMALL, WIDE = (5, 32, 32), (9, 64, 64)
TINY = {"width": 64, "layers": 6, "taps": (1, 5)}


def predicted(config: RunConfig, stage: str, size: tuple[int, int, int]) -> Prediction:
    return predict(config, stage, source_of(config, None), size, 1, GPUS["h100"])


def check(prediction: Prediction, measured: tuple[int, int]) -> None:
    """What is held agrees to a byte in a thousand, what a step takes beside it within 2 %."""
    step = prediction.memory["activations"] + prediction.memory["gradients"]
    held = prediction.total - step - prediction.memory["text encoder"]
    assert held == pytest.approx(measured[0], rel=1e-3)
    assert step == pytest.approx(measured[1], rel=0.02)


CASES = [("none", 4), ("full", 1), ("none", 1), ("full", 4)]


def only(*quick: tuple[str, int]) -> list[Any]:
    """All cases; those but `quick` are slow."""
    return [case if case in quick else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("checkpointing", "batch"), only(("none", 4)))
def test_finetuning_of_a_new_model_takes_what_was_predicted(
    run_file: Callable[..., RunConfig], measured: Callable[..., int], checkpointing: str, batch: int
) -> None:
    """Predicted from 3 and 4 of its 6 blocks."""
    config = run_file(finetune={"batch": batch}, model=TINY, checkpointing=checkpointing)
    check(predicted(config, "finetune", SMALL), measured(config, "finetune", SMALL))


@pytest.mark.parametrize(("checkpointing", "batch"), only(("full", 1)))
def test_finetuning_of_a_released_model_takes_what_was_predicted(
    run_file: Callable[..., RunConfig], measured: Callable[..., int], released: Path, checkpointing: str, batch: int
) -> None:
    model = {"kind": "wan", "taps": (0, 2)}
    config = run_file(
        finetune={"batch": batch}, model=model, checkpointing=checkpointing, precision="bf16", init=released
    )
    check(predicted(config, "finetune", WIDE), measured(config, "finetune", WIDE))


@pytest.mark.parametrize(
    ("stage", "tables"),
    [
        ("backbone", {"backbone": {"batch": 4, "micro_batch": 2, "optimizer": {"learning_rate": 1e-4, "ema": 0.9}}}),
        pytest.param("pretrain", {"pretrain": {"batch": 2}}, marks=pytest.mark.slow),
        pytest.param(
            "reinforce",
            {"finetune": {}, "reinforce": {"conditions": 1, "group": 4, "micro_batch": 2}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "reward_gradient",
            {"finetune": {}, "reward_gradient": {"conditions": 4, "micro_batch": 2, "gradient_steps": 2}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_stage_takes_what_was_predicted(
    run_file: Callable[..., RunConfig], measured: Callable[..., int], stage: str, tables: dict[str, Any]
) -> None:
    config = run_file(**tables, model=TINY)
    check(predicted(config, stage, SMALL), measured(config, stage, SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_the_memory_of_a_process_grows_by_what_was_predicted(
    run_file: Callable[..., RunConfig], checkpointing: str
) -> None:
    """More than a GiB without checkpointing, so that the interpreter's own memory is small beside it."""
    size, batch = (13, 96, 96), 8
    keys = {"model": {"width": 256, "layers": 6, "taps": (1, 5)}, "checkpointing": checkpointing}
    prediction = predicted(run_file(finetune={"batch": batch}, **keys), "finetune", size)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # freed memory goes back
    script = Path(__file__).with_name("process_memory.py")
    given = json.dumps({"batch": batch, "size": size, **keys})
    done = subprocess.run([sys.executable, script, given], env=environment, capture_output=True, text=True, check=True)
    assert prediction.total == pytest.approx(int(done.stdout.split()[-1]), rel=0.1)
