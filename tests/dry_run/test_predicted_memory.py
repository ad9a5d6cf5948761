"""Predicted memory against what a step takes on real tensors, and against the memory of a process."""

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


def without_text(prediction: Prediction) -> int:
    return prediction.total - prediction.memory["text encoder"]


SOME = [("none", 4), ("full", 1)]
OTHERS = [pytest.param(*case, marks=pytest.mark.slow) for case in (("none", 1), ("full", 4))]


@pytest.mark.parametrize(("checkpointing", "batch"), [*SOME, *OTHERS])
def test_finetuning_of_a_new_model_takes_what_was_predicted(
    run_file: Callable[..., RunConfig], measured: Callable[..., int], checkpointing: str, batch: int
) -> None:
    """Predicted from 3 and 4 of its 6 blocks."""
    config = run_file(finetune={"batch": batch}, model=TINY, checkpointing=checkpointing)
    assert without_text(predicted(config, "finetune", SMALL)) == pytest.approx(
        measured(config, "finetune", SMALL), rel=0.1
    )


@pytest.mark.parametrize(("checkpointing", "batch"), [*SOME, *OTHERS])
def test_finetuning_of_a_released_model_takes_what_was_predicted(
    run_file: Callable[..., RunConfig], measured: Callable[..., int], released: Path, checkpointing: str, batch: int
) -> None:
    model = {"kind": "wan", "taps": (0, 2)}
    config = run_file(
        finetune={"batch": batch}, model=model, checkpointing=checkpointing, precision="bf16", init=released
    )
    assert without_text(predicted(config, "finetune", WIDE)) == pytest.approx(
        measured(config, "finetune", WIDE), rel=0.1
    )


@pytest.mark.parametrize(
    ("stage", "tables"),
    [
        ("backbone", {"backbone": {"batch": 4, "micro_batch": 2, "optimizer": {"learning_rate": 1e-4, "ema": 0.9}}}),
        ("pretrain", {"pretrain": {"batch": 2}}),
        pytest.param(
            "reinforce",
            {"finetune": {}, "reinforce": {"conditions": 1, "group": 4, "micro_batch": 2}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_stage_takes_what_was_predicted(
    run_file: Callable[..., RunConfig], measured: Callable[..., int], stage: str, tables: dict[str, Any]
) -> None:
    config = run_file(**tables, model=TINY)
    assert without_text(predicted(config, stage, SMALL)) == pytest.approx(measured(config, stage, SMALL), rel=0.1)
