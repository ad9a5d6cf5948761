"""Stage `pretrain`: pseudo-labels, what counts as moving, sigmas about the probe, against fp64 by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from phys4d.engine.random import normal, uniform
from phys4d.models.world import WorldModel
from phys4d.stages import pretrain
from phys4d.stages.geometry_loss import GeometryWeights

SEED, STEP, PROBE = 5, 4, 0.07
NEAR, SHIFT, SLOPE = 0.8, 0.9, 0.5  # of the stub's heads; the slope with `reinforce` off
WEIGHTS = {"depth": 1.5, "flow": 0.7, "dz": 2.5}


def geometry(source: Any) -> tuple[Any, Any]:
    """What the closed-form heads read: depth and motion, fp64."""
    depths, motions = [], []
    for clip in (0, 1):
        key = (SEED, "pretrain", STEP, clip)
        u = float(uniform((), *key, "sigma"))
        sigma = 0.02 + 0.28 * u ** (math.log((PROBE - 0.02) / 0.28) / math.log(0.5))
        clean, noise = 2 * source.video[clip].double(), normal((3, 3, 2, 2), *key, "noise").double()
        noisy = (1 - sigma) * clean + sigma * noise
        noisy[:, 0] = clean[:, 0]
        depths.append(NEAR * (1 + noisy[0].abs() + sigma + SLOPE))
        motions.append(SHIFT * noisy[:, :-1].tanh())
    return torch.stack(depths), torch.stack(motions)


def test_the_loss_is_that_of_the_geometry_and_moving_is_where_the_flow_is_long(
    objective: Callable[..., Any], source: Any, world: WorldModel, minimised: Any, geometry_by_hand: Callable[..., Any]
) -> None:
    weights = GeometryWeights(**WEIGHTS, moving_depth=4, moving_motion=6, margin=0)
    stage = objective(pretrain, batch=2, moving_pixels=0.31, weights=weights)
    report = stage.update(STEP, minimised)
    assert source.asked == [(2, SEED, "pretrain", STEP)]
    labels = {name: array for name, array in source.arrays.items() if name not in ("visible", "moving")}
    # (0.25, -0.2) px and (-0.28, 0.2) px: long enough together, neither component alone
    by_hand = geometry_by_hand(
        *geometry(source), labels, source.arrays["moving"], weights=WEIGHTS, moving_depth=4, moving_motion=6, margin=0
    )
    assert minimised.losses == [pytest.approx(by_hand["total"], rel=1e-5)]
    for name in ("depth", "flow", "dz"):
        assert float(report[f"{name}_loss"]) == pytest.approx(by_hand[name], rel=1e-5), name
    assert float(report["loss"]) == pytest.approx(by_hand["total"], rel=1e-5) and not report["loss"].requires_grad


def test_it_reads_pseudo_labels_and_trains_the_heads_alone(objective: Callable[..., Any], world: WorldModel) -> None:
    stage = objective(pretrain)
    assert set(pretrain.SPEC.arrays(stage.config)) == {"depth", "motion", "depth_valid", "flow_valid", "dz_valid"}
    stage.prepare(world, stage.config, SEED)
    assert {name for name, p in world.named_parameters() if p.requires_grad} == {"heads.near", "heads.shift"}
    assert stage.modules() == {"heads": world.heads}
    (group,) = stage.parameter_groups()
    assert group["lr_scale"] == 1.0 and [id(p) for p in group["params"]] == [id(p) for p in world.heads.parameters()]
