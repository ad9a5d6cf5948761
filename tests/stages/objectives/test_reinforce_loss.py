"""Stage `reinforce`: rollouts, advantages, ratio, clip, KL and flow matching against fp64 by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.engine.random import normal, uniform
from phys4d.models.world import WorldModel
from phys4d.rewards import moving_points
from phys4d.rewards.pixel_error import pixel_error
from phys4d.stages import policy, reinforce
from phys4d.stages.spec import Shares
from tests.stages.objectives.reinforce_by_hand import (  # fmt: skip
    ADVANTAGES,
    CLIPS,
    KEYS,
    MOVE,
    POLICY,
    REFERENCE,
    REWARDS,
    SEED,
    SETTINGS,
    SHAPE,
    SIGMAS,
    STEP,
    drawn,
    evaluated,
    losses,
    step,
    velocity,
)


@pytest.fixture
def rewarded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Rewards are given; the latents that they were given for are kept."""
    kept: list[Tensor] = []

    def reward(self: Any, latents: Tensor, samples: Any, conditions: Any, logged: Shares) -> Tensor:
        kept.append(latents)
        logged.add(1.0, head_drift=0.125)
        return torch.tensor(REWARDS)

    monkeypatch.setattr(reinforce.ReinforceObjective, "_reward", reward)
    return kept


@pytest.mark.parametrize(("sampler", "guidance"), [("flow_sde", 1.0), ("cps", 1.0), ("flow_sde", 3.0), ("cps", 1.5)])
def test_an_update_by_hand(
    objective: Callable[..., Any], source: Any, world: WorldModel, rewarded: list[Tensor], sampler: str, guidance: float
) -> None:
    """After the first of two steps the policy's slope is moved: the second one's ratios are clipped or not."""
    stage, seen = objective(reinforce, **SETTINGS, sampler=sampler, guidance=guidance), []

    def optimizer_step(parts: list[Callable[[], Tensor]]) -> Tensor:
        loss = torch.stack([part() for part in parts]).sum()
        loss.backward()
        adapter = world.backbone.transformer.adapters.reinforce
        seen.append((loss.item(), adapter.grad.item()))
        adapter.grad = None
        adapter.data += MOVE
        return loss.detach()

    report = stage.update(STEP, optimizer_step)
    assert source.asked == [
        (2, SEED, "reinforce", STEP), *((2, SEED, "reinforce flow matching", 2 * STEP + k) for k in (0, 1))
    ]
    steps, ends = drawn(source, sampler, guidance=guidance)
    torch.testing.assert_close(rewarded[0].double(), ends, rtol=1e-5, atol=1e-5)
    found = [losses(source, steps, k, POLICY + MOVE * k, sampler, ADVANTAGES, guidance) for k in (0, 1)]
    assert 0 < found[1]["clipped"] < 1 and found[0]["ratio"] == 1
    for k, (loss, gradient) in enumerate(seen):
        assert loss == pytest.approx(found[k]["total"], rel=1e-4), k
        slopes = [POLICY + MOVE * k + e for e in (-1e-5, 1e-5)]
        near = [losses(source, steps, k, slope, sampler, ADVANTAGES, guidance)["total"] for slope in slopes]
        assert gradient == pytest.approx((near[1] - near[0]) / 2e-5, rel=1e-3), k
    mean = {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}
    logged = {
        "reward": sum(REWARDS) / 4, "reward_group_std": (2 + 0.25) / 2 * 0.5**0.5, "zero_variance_share": 0.0,
        "head_drift": 0.125, "policy_loss": mean["policy"], "kl": mean["kl"], "ratio": mean["ratio"],
        "ratio_std": mean["std"], "clip_fraction": mean["clipped"],
    }  # fmt: skip
    assert {name: float(value) for name, value in report.items()} == {
        name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in logged.items()
    }
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in report.values())


def test_the_kl_pulls_the_policy_to_the_reference(
    objective: Callable[..., Any], world: WorldModel, rewarded: list[Tensor], minimised: Any
) -> None:
    """With no advantage and no flow matching the loss is 0.4 KL > 0, and less of the adapter means less of it."""
    rewarded.clear()
    stage = objective(reinforce, **SETTINGS | {"flow_matching": 0.0, "advantage_clip": 1e-9})
    stage.update(STEP, minimised)
    adapter = world.backbone.transformer.adapters.reinforce
    assert all(loss > 1e-4 for loss in minimised.losses) and adapter.grad > 1e-3
    assert world.backbone.transformer.adapters._active_adapter == ["finetune", "reinforce"]


def test_a_group_without_variance_is_counted_as_a_share_of_the_groups(
    objective: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, minimised: Any
) -> None:
    """Deviations below a millionth count as none: 0.7 millionths do, 1.5 do not."""
    stage = objective(reinforce, **SETTINGS)
    for rewards, share in (([0.0, 1e-6, 0.0, 2.1e-6], 0.5), ([0.0, 0.0, 3.0, 3.0], 1.0)):
        given = torch.tensor(rewards)
        monkeypatch.setattr(reinforce.ReinforceObjective, "_reward", lambda *args, given=given: given)
        assert float(stage.update(STEP, evaluated)["zero_variance_share"]) == share


def test_all_clips_of_an_update_are_read_before_a_weight_changes(
    objective: Callable[..., Any], source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a clip that cannot be read costs no finished update."""
    events: list[Any] = []
    monkeypatch.setattr(type(source), "fetch", lambda self, size, parallel, *place: events.append((size, *place)))
    stage = objective(reinforce, **SETTINGS)
    stage.update(STEP, lambda parts: events.append("optimizer step") or evaluated(parts))
    count = stage.config.stochastic_steps
    assert events[:count] == [asked for asked in source.asked if asked[2] == "reinforce flow matching"]
    assert len(events[:count]) == count and events[count:] == ["optimizer step"] * count


def test_flow_matching_takes_no_sigma_below_two_percent(
    objective: Callable[..., Any], source: Any, world: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phys4d.batch.uniform", lambda shape, *key: torch.zeros(shape))
    seen: list[list[float]] = []
    predict = world.predict
    monkeypatch.setattr(world, "predict", lambda *given: seen.append(given[1].tolist()) or predict(*given))
    stage = objective(reinforce, **SETTINGS)
    stage._flow_matching(source.batch(2, stage.parallel, SEED, "reinforce flow matching", 0))
    assert seen == [pytest.approx([0.02, 0.02])]


def test_of_three_terms_those_without_weight_are_not_there(
    objective: Callable[..., Any], source: Any, rewarded: list[Tensor], minimised: Any
) -> None:
    stage = objective(reinforce, **SETTINGS | {"flow_matching": 0.0, "kl": 0.0})
    report = stage.update(STEP, minimised)
    assert source.asked == [(2, SEED, "reinforce", STEP)] and float(report["kl"]) == 0
    assert minimised.losses == pytest.approx([0.0, 0.0], abs=1e-5)  # ratio 1, advantages of mean 0


def test_better_than_its_group_becomes_more_likely(
    objective: Callable[..., Any], source: Any, world: WorldModel, rewarded: list[Tensor]
) -> None:
    """One descent step on the policy's loss alone raises the log-probability of what scored better."""
    stage = objective(reinforce, **SETTINGS | {"flow_matching": 0.0, "kl": 0.0, "stochastic_steps": 1})
    adapter = world.backbone.transformer.adapters.reinforce

    def descend(parts: list[Callable[[], Tensor]]) -> Tensor:
        (loss,) = (part() for part in parts)
        loss.backward()
        adapter.data -= 1e-3 * adapter.grad.sign()
        return loss.detach()

    stage.update(STEP, descend)
    steps, _ = drawn(source, "flow_sde")
    gain = 0.0
    for (x, after), clip, advantage in zip(steps[0], CLIPS, ADVANTAGES, strict=True):
        off = [
            float((after - step(x, velocity(x, 0, clip, slope), 0, "flow_sde")[0]).square().mean())
            for slope in (POLICY, REFERENCE + adapter.item())
        ]
        gain += advantage * (off[0] - off[1])
    assert gain > 0


@pytest.mark.parametrize("shared", [True, False])
def test_the_start_is_the_groups_or_the_samples(
    objective: Callable[..., Any], source: Any, rewarded: list[Tensor], minimised: Any, shared: bool
) -> None:
    objective(reinforce, **SETTINGS, shared_start=shared).update(STEP, minimised)
    torch.testing.assert_close(rewarded[0].double(), drawn(source, "flow_sde", shared)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_later_step_that_does_not_replay_stops_the_run_before_any_weight_changes(
    objective: Callable[..., Any], rewarded: list[Tensor], minimised: Any, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    stage = objective(reinforce, **SETTINGS)
    step_mean = reinforce.ReinforceObjective._step_mean

    def off(self: Any, t: Any, batch: Any) -> tuple[Tensor, float]:
        mean, deviation = step_mean(self, t, batch)
        return mean + 0.01 * (t.sigma == pytest.approx(SIGMAS[broken])), deviation

    monkeypatch.setattr(reinforce.ReinforceObjective, "_step_mean", off)
    with pytest.raises(RuntimeError, match=f"drawn step {broken + 1} of 2: off by"):
        stage.update(STEP, minimised)
    assert minimised.losses == []


def test_the_replay_is_checked_in_the_first_update_alone(
    objective: Callable[..., Any], rewarded: list[Tensor], minimised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def check(ratios: list[Tensor], parallel: Any) -> None:
        assert not any(ratio.requires_grad for ratio in ratios)  # no graph is kept
        checked.append(len(ratios))

    monkeypatch.setattr(reinforce, "check_replay", check)
    stage = objective(reinforce, **SETTINGS)
    for update in (STEP, STEP + 1):
        stage.update(update, minimised)
    assert checked == [2]


@pytest.mark.parametrize("kind", ["changed", "all", "objects"])
def test_the_reward_is_of_decoded_latents_and_of_geometry_read_without_the_policy(
    objective: Callable[..., Any], source: Any, world: WorldModel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: dict[str, Any] = {}

    def moving_chamfer(*given: Any, **named: Any) -> tuple[Tensor, dict]:
        asked.update(zip(("video", "depth", "motion"), given, strict=True), **named)
        return torch.tensor(REWARDS), {}

    monkeypatch.setattr(moving_points, "moving_chamfer", moving_chamfer)
    source.arrays["instance"] = torch.randint(0, 3, (2, 3, 2, 2), dtype=torch.uint8)
    stage = objective(reinforce, **SETTINGS, reward=kind)
    conditions = source.batch(2, stage.parallel, SEED, "reinforce", STEP)
    (samples,), logged = stage._samples(conditions, 2), Shares()
    latents = 3 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(4))
    reward = stage._reward(latents, samples, conditions, logged)
    drift = logged.sums["head_drift"]
    assert reward.tolist() == REWARDS
    probe = torch.stack([normal(SHAPE, *key, "probe") for key in KEYS])
    noisy = 0.93 * latents + 0.07 * probe
    noisy[:, :, 0] = latents[:, :, 0]
    depth = 0.8 * (1 + noisy[:, 0].abs() + 0.07 + REFERENCE)
    torch.testing.assert_close(asked["depth"], depth)
    torch.testing.assert_close(asked["motion"], 0.9 * noisy[:, :, :-1].tanh())
    torch.testing.assert_close(asked["video"], (latents / 2).clamp(-1, 1))
    assert asked["video"].min() == -1 and asked["video"].max() == 1
    error = pixel_error(asked["video"], source.video[CLIPS]).mean()
    assert float(logged.sums["pixel_error"]) == pytest.approx(float(error), rel=1e-5)
    assert float(drift) == pytest.approx(float(((depth + 0.08) / depth)[::2].log().mean()), rel=1e-4)
    world.backbone.transformer.adapters.reinforce.data.fill_(-POLICY / 6)  # the depths shrink: the drift counts as much
    shrunk = ((depth - 0.8 * POLICY / 6) / depth)[::2].log().mean()
    logged.sums.clear()
    stage._reward(latents, samples, conditions, logged)
    assert float(logged.sums["head_drift"]) == pytest.approx(-float(shrunk), rel=1e-4)
    for name, array in (("truth_video", source.video), ("truth_depth", source.arrays["depth"])):
        assert torch.equal(asked[name], array[CLIPS]), name
    assert torch.equal(asked["truth_motion"], source.arrays["motion"][CLIPS])
    assert asked["intrinsics"].shape == (4, 3, 3, 3) and asked.get("points") == ("all" if kind == "all" else None)
    instance = asked.get("truth_instance")
    assert torch.equal(instance, source.arrays["instance"][CLIPS]) if kind == "objects" else instance is None


def test_the_control_gives_each_sample_the_advantage_of_any_of_its_group(
    objective: Callable[..., Any], source: Any, rewarded: list[Tensor], minimised: Any
) -> None:
    objective(reinforce, **SETTINGS, shuffled_advantages=True).update(STEP, minimised)
    steps, _ = drawn(source, "flow_sde")
    keys = [float(uniform((), *key, "shuffle")) for key in KEYS]
    mixed = list(ADVANTAGES)
    for g in (0, 2):
        order = [g, g + 1] if keys[g] < keys[g + 1] else [g + 1, g]
        mixed[g : g + 2] = [ADVANTAGES[i] for i in order]
    assert minimised.losses[0] == pytest.approx(losses(source, steps, 0, POLICY, "flow_sde", mixed)["total"], rel=1e-4)


def test_it_trains_its_adapter_and_nothing_else(
    objective: Callable[..., Any], world: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, transformer, added = objective(reinforce, rank=7), world.backbone.transformer, []

    def add_adapter(*given: Any) -> None:
        added.append(given)
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(name == "adapters.reinforce")

    monkeypatch.setattr(policy, "add_adapter", add_adapter)
    stage.prepare(world, stage.config, SEED)
    assert added == [(transformer, "reinforce", 7, SEED, ("slope",), 7.0)]
    assert {n for n, p in world.named_parameters() if p.requires_grad} == {"backbone.transformer.adapters.reinforce"}
    assert stage.modules() == {"transformer": transformer}
    (group,) = stage.parameter_groups()
    assert group["lr_scale"] == 1.0 and [id(p) for p in group["params"]] == [id(transformer.adapters.reinforce)]
