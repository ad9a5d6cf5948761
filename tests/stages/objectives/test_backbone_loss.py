"""Stage `backbone`: its loss, its sigmas and its gradient against fp64 by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from phys4d.engine.random import normal, uniform
from phys4d.models.world import WorldModel
from phys4d.stages import backbone

SEED, STEP, SHIFT, SLOPE = 5, 3, 2.5, 0.6
SHAPE = (3, 3, 2, 2)


def expected(source: Any, slope: float, keys: list[tuple[Any, ...]]) -> tuple[float, float, float]:
    """Loss, its slope in `slope`, and the mean squared error of the clean latents, over latent frames 1 and 2."""
    loss, gradient, clean_error, count = 0.0, 0.0, 0.0, 0
    for clip, key in enumerate(keys):
        clean = 2 * source.video[clip].double()
        noise = normal(SHAPE, *key, "noise").double()
        u = float(uniform((), *key, "sigma"))
        sigma = max(SHIFT * u / (1 + (SHIFT - 1) * u), 0.02)
        noisy = ((1 - sigma) * clean + sigma * noise)[:, 1:]
        error = slope * noisy + sigma + 0.05 * clip - (noise - clean)[:, 1:]
        loss += float(error.square().sum())
        gradient += float((2 * error * noisy).sum())
        clean_error += float((sigma * error).square().sum())
        count += error.numel()
    return loss / count, gradient / count, clean_error / count


def test_the_loss_is_the_squared_error_of_the_velocity_at_shifted_sigmas(
    objective: Callable[..., Any], source: Any, world: WorldModel, minimised: Any
) -> None:
    stage = objective(backbone, batch=2)
    report = stage.update(STEP, minimised)
    assert source.asked == [(2, SEED, "backbone", STEP)] and source.names == ()
    loss, gradient, clean_error = expected(source, SLOPE, [(SEED, "backbone", STEP, place) for place in (0, 1)])
    assert minimised.losses == [pytest.approx(loss, rel=1e-5)]
    assert float(report["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(report["clean_mse"]) == pytest.approx(clean_error, rel=1e-5)
    assert float(world.backbone.transformer.base.grad) == pytest.approx(gradient, rel=1e-4)
    assert not any(value.requires_grad for value in report.values())


def test_sigma_is_at_least_two_percent(
    objective: Callable[..., Any], source: Any, minimised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phys4d.batch.uniform", lambda shape, *key: torch.zeros(shape))
    seen = []
    stage = objective(backbone, batch=2)
    predict = stage.model.predict
    monkeypatch.setattr(stage.model, "predict", lambda *given: seen.append(given[1]) or predict(*given))
    stage.update(0, minimised)
    assert seen[0].tolist() == pytest.approx([0.02, 0.02])


def test_it_trains_the_transformer_and_nothing_else(objective: Callable[..., Any], world: WorldModel) -> None:
    stage = objective(backbone)
    stage.prepare(world, stage.config, SEED)
    trained = {name for name, p in world.named_parameters() if p.requires_grad}
    assert trained == {f"backbone.transformer.{name}" for name, _ in world.backbone.transformer.named_parameters()}
    assert stage.modules() == {"transformer": world.backbone.transformer}
    (group,) = stage.parameter_groups()
    assert group["lr_scale"] == 1.0 and {id(p) for p in group["params"]} == {
        id(p) for p in world.backbone.transformer.parameters()
    }
