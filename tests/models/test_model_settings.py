"""The table [model]: what its numbers are where a run file does not say, what they take, and what is filled in."""

from typing import Any

import pytest
from pydantic import ValidationError

from phys4d.models.config import ModelConfig, ResolvedConfig

# Setting, its default, the least (or little) that it takes, what it refuses.
NUMBERS: list[tuple[str, Any, Any, Any]] = [
    ("kind", "tiny", "wan", "other"), ("width", 128, 32, 0), ("width", 128, 64, 33), ("layers", 4, 1, 0),
    ("taps", (1, 3), (0,), ()), ("taps", (1, 3), (0, 1), (-1,)), ("probe_sigma", 0.05, 0.01, 0.0),
    ("probe_sigma", 0.05, 0.99, 1.0),
    ("sampling_steps", None, 1, 0), ("sampling_shift", None, 0.1, 0.0), ("attention", "auto", "sdpa", "fastest"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "default", "taken", "refused"), NUMBERS)
def test_a_setting_has_its_default_and_its_range(name: str, default: Any, taken: Any, refused: Any) -> None:
    assert getattr(ModelConfig(), name) == default
    assert getattr(ModelConfig(**{name: taken}), name) == taken
    with pytest.raises(ValidationError, match=name):
        ModelConfig(**{name: refused})


def test_steps_and_shift_are_the_models_own_unless_the_run_file_says() -> None:
    resolved = ModelConfig(width=64, attention="sdpa").resolved(7, 4.0)
    assert (resolved.sampling_steps, resolved.sampling_shift) == (7, 4.0)
    assert (resolved.width, resolved.attention) == (64, "auto")
    resolved = ModelConfig(sampling_steps=2, sampling_shift=1.5).resolved(7, 4.0)
    assert (resolved.sampling_steps, resolved.sampling_shift) == (2, 1.5)


def test_a_model_that_exists_has_a_step_and_a_shift_at_least() -> None:
    least = ResolvedConfig(sampling_steps=1, sampling_shift=0.1)
    assert (least.sampling_steps, least.sampling_shift) == (1, 0.1)
    for refused in ({"sampling_steps": 0, "sampling_shift": 1.0}, {"sampling_steps": 1, "sampling_shift": 0.0}):
        with pytest.raises(ValidationError, match="sampling"):
            ResolvedConfig(**refused)  # type: ignore[arg-type]
