"""Stage `reward_gradient`: its samples, its loss and the loss's gradient against fp64 by hand."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.random import normal
from phys4d.models.world import WorldModel
from phys4d.rewards.pixel_error import pixel_error
from phys4d.rewards.registry import REWARDS
from phys4d.stages import policy, reward_gradient
from phys4d.stages.spec import Drawn
from tests.stages.objectives.reinforce_by_hand import (
    POLICY,
    REFERENCE,
    SEED,
    SHAPE,
    SIGMAS,
    STEP,
    flow_matching,
    velocity,
)

SETTINGS: dict[str, Any] = {"conditions": 2, "steps": 3, "gradient_steps": 3, "flow_matching": 0.0}


@pytest.fixture
def rewarded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A reward with a gradient in everything that is generated; what it was asked is kept."""
    asked: list[Any] = []

    def reward(generated: Any, truth: Any) -> Tensor:
        asked.append((generated, truth))
        video, depth, motion = (x.flatten(1) for x in (generated.video, generated.depth, generated.motion))
        return 3 * video.sin().mean(1) - depth.mean(1) + motion.square().mean(1)

    monkeypatch.setitem(REWARDS, "changed", replace(REWARDS["changed"], differentiable=reward))
    return asked


def by_hand(source: Any, slope: float, steps: int, guidance: float = 1.0) -> float:
    """The mean reward, where the last `steps` steps are taken with this slope and those before with POLICY."""
    rewards = []
    for clip in (0, 1):
        key = (SEED, "reward_gradient", STEP, clip, 0)
        x = normal(SHAPE, *key, "start").double()[:, 1:]
        for k in range(3):
            own = slope if 3 - k <= steps else POLICY
            x = x + (SIGMAS[k + 1] - SIGMAS[k]) * velocity(x, k, clip, own, guidance)
        latents = torch.cat([2 * source.video[clip, :, :1].double(), x], 1)
        noisy = 0.93 * latents + 0.07 * normal(SHAPE, *key, "probe").double()
        noisy[:, 0] = latents[:, 0]
        depth, motion = 0.8 * (1 + noisy[0].abs() + 0.07 + REFERENCE), 0.9 * noisy[:, :-1].tanh()
        rewards.append(3 * (latents / 2).clamp(-1, 1).sin().mean() - depth.mean() + motion.square().mean())
    return float(torch.stack(rewards).mean())


@pytest.mark.parametrize(("steps", "guidance"), [(3, 1.0), (1, 1.0), (2, 2.0)])
def test_an_update_by_hand(
    objective: Callable[..., Any], source: Any, world: WorldModel, rewarded: list[Any], minimised: Any, steps: int,
    guidance: float,
) -> None:  # fmt: skip
    """Geometry is read without the policy, so that the heads' own way to a higher reward has no gradient."""
    stage = objective(reward_gradient, **SETTINGS | {"gradient_steps": steps, "guidance": guidance})
    report = stage.update(STEP, minimised)
    assert source.asked == [(2, SEED, "reward_gradient", STEP)]
    assert minimised.losses == [pytest.approx(-by_hand(source, POLICY, steps, guidance), rel=1e-5)]
    near = [by_hand(source, POLICY + e, steps, guidance) for e in (-1e-5, 1e-5)]
    adapter = world.backbone.transformer.adapters.reinforce
    assert adapter.grad.item() == pytest.approx(-(near[1] - near[0]) / 2e-5, rel=1e-4)
    assert float(report["reward"]) == pytest.approx(by_hand(source, POLICY, steps, guidance), rel=1e-5)
    ((generated, truth),) = rewarded
    error = pixel_error(generated.video.detach(), source.video).mean()
    assert float(report["pixel_error"]) == pytest.approx(float(error), rel=1e-5) and error > 0.1
    assert torch.equal(truth.video, source.video) and generated.video.abs().max() <= 1
    assert world.backbone.transformer.adapters._active_adapter == ["finetune", "reinforce"]
    assert all(p.grad is None for p in world.heads.parameters())


def test_the_diffusion_loss_is_added_and_its_clips_are_drawn_by_the_step(
    objective: Callable[..., Any], source: Any, rewarded: list[Any], minimised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = objective(reward_gradient, **SETTINGS | {"flow_matching": 0.3, "flow_matching_batch": 2})
    matching = "reward_gradient flow matching"
    assert stage.batches(STEP) == [Drawn("reward_gradient", STEP, 2), Drawn(matching, STEP, 2)]
    stage.update(STEP, minimised)
    assert source.asked == [(2, SEED, "reward_gradient", STEP), (2, SEED, matching, STEP)]
    monkeypatch.setattr(f"{flow_matching.__module__}.MATCHING", matching)
    expected = -by_hand(source, POLICY, 3) + 0.3 * flow_matching(source, STEP, POLICY)
    assert minimised.losses == [pytest.approx(expected, rel=1e-5)]
    assert objective(reward_gradient, **SETTINGS).batches(STEP) == [Drawn("reward_gradient", STEP, 2)]


def test_micro_batches_are_shares_of_one_update(
    objective: Callable[..., Any], world: WorldModel, rewarded: list[Any]
) -> None:
    found = []
    for size in (None, 1):
        stage = objective(reward_gradient, **SETTINGS | {"micro_batch": size})
        losses: list[float] = []

        def descend(parts: Sequence[Callable[[], Tensor]], losses: list[float] = losses) -> None:
            for part in parts:
                loss = part()
                loss.backward()
                losses.append(loss.item())

        stage.update(STEP, descend)
        adapter = world.backbone.transformer.adapters.reinforce
        found.append((len(losses), sum(losses), adapter.grad.item()))
        adapter.grad = None
    assert [count for count, *_ in found] == [1, 2]
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-5)


def test_the_video_is_what_can_be_shown_and_the_reward_is_the_mean(
    objective: Callable[..., Any], world: WorldModel, rewarded: list[Any], minimised: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(world.codec, "decode", lambda latents: 9 * latents)
    report = objective(reward_gradient, **SETTINGS).update(STEP, minimised)
    ((generated, truth),) = rewarded
    assert generated.video.min() == -1 and generated.video.max() == 1
    rewards = REWARDS["changed"].differentiable(generated, truth)  # type: ignore[misc]
    assert float(report["reward"]) == pytest.approx(rewards.mean().item(), rel=1e-5)


def test_the_clips_pixels_are_asked_for(objective: Callable[..., Any], source: Any, rewarded: list[Any]) -> None:
    stage = objective(reward_gradient, **SETTINGS)
    batch, asked = stage.clips.batch, []
    stage.clips.batch = lambda *place, **options: asked.append(options) or batch(*place)
    stage.update(STEP, lambda losses: None)
    assert asked == [{"pixels": True}]


def test_on_tensors_without_values_every_part_is_read(objective: Callable[..., Any], minimised: Any) -> None:
    stage = objective(reward_gradient, **SETTINGS)
    stage.leave_out_values()
    stage.update(STEP, minimised)
    assert len(minimised.losses) == 1


def test_it_trains_its_adapter_and_nothing_else(
    objective: Callable[..., Any], world: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, added = objective(reward_gradient, rank=7), []
    monkeypatch.setattr(policy, "add_adapter", lambda *given: added.append(given))
    stage.prepare(world, stage.config, SEED)
    assert added == [(world.backbone.transformer, "reinforce", 7, SEED, ("slope",), 7.0)]
    assert not any(p.requires_grad for p in world.heads.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "gradient_steps": 4}, "gradient_steps: 4 of 3 steps: take at most 3"),
        ({"reward": "all"}, "'all' has no gradient: take one of 'changed'"),
    ],
)
def test_what_has_no_gradient_is_refused(
    objective: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    assert objective(reward_gradient).config.gradient_steps == 1
    with pytest.raises(ValueError, match=re.escape(message)):
        objective(reward_gradient, **settings)


def test_weights_that_are_divided_by_zero_stage_3_are_refused(objective: Callable[..., Any]) -> None:
    parallel = Parallel.alone()
    for stage in (3, None):  # which is 3
        parallel.config = ParallelConfig(strategy="deepspeed", zero_stage=stage)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"^parallel\.zero_stage: .* set it to 2, or strategy to \"fsdp\"$"):
            objective(reward_gradient, parallel)
    parallel.config = ParallelConfig(strategy="deepspeed", zero_stage=2)
    objective(reward_gradient, parallel)
