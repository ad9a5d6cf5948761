"""What stages share: logged sums over micro-batches, and the samples that were drawn."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.stages import spec
from phys4d.stages.spec import ClipOrder, Drawn, Shares


def test_means_of_micro_batches_add_up_by_their_share_without_gradients() -> None:
    logged, value = Shares(), torch.tensor(8.0, requires_grad=True)
    logged.add(0.25, loss=value * 1, ratio=2.0)
    logged.add(0.75, loss=torch.tensor(4.0))
    assert float(logged.sums["loss"]) == 0.25 * 8 + 0.75 * 4 and float(logged.sums["ratio"]) == 0.5
    assert not torch.as_tensor(logged.sums["loss"]).requires_grad


class Course:
    """Draws from two pools: three clips of the first and one of the second for each batch of 4."""

    def state(self, number: int, size: int) -> np.ndarray:
        return np.array([3, 1]) * number * size // 4


class Objective:
    """Step k draws batch k of "first", and batches 2k and 2k + 1 of "second"."""

    name, seed = "first", 7
    clips = SimpleNamespace(course=lambda seed, name: Course(), bucket=lambda *place: place)

    def batches(self, step: int) -> list[Drawn]:
        return [Drawn("first", step, 4), Drawn("second", 2 * step, 8), Drawn("second", 2 * step + 1, 8)]


def test_samples_are_counted_by_the_first_batch_and_states_are_those_before_the_step() -> None:
    objective: Any = Objective()
    order = ClipOrder(objective, each=6)
    assert {name: state.tolist() for name, state in order.state(5).items()} == {"first": [15, 5], "second": [60, 20]}
    assert order.samples(5) == 6 * 20 and order.samples(0) == 0
    assert order.kind(3) == (((7, "first", 3, 4), 4), ((7, "second", 6, 8), 8), ((7, "second", 7, 8), 8))


def test_a_stage_reads_the_clips_of_its_table_unless_it_is_given_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stage(spec.StageObjective):
        name = "stage"

        @staticmethod
        def arrays(config: Any) -> tuple[str, ...]:
            return ("depth",)

        prepare = modules = parameter_groups = update = lambda *arguments: None  # type: ignore[assignment]

    monkeypatch.setattr(spec, "with_caches", lambda data: [data])
    monkeypatch.setattr(spec, "Clips", lambda *arguments, **options: (arguments, options))
    model: Any = SimpleNamespace(text="text", grid="grid")
    config, alone, given = SimpleNamespace(data="folder", on_bad="skip"), spec.Parallel.alone(), object()
    options = {"on_bad": "skip", "affine_depth": False}
    assert Stage(config, model, alone, 0).clips == ((["folder"], ("depth",), "text", "grid"), options)
    assert Stage(config, model, alone, 0, given).clips is given  # type: ignore[arg-type]
