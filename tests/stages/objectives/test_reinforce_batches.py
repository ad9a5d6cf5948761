"""Stage `reinforce`: the batches that it draws, its samples in micro-batches, and what it does not keep or compute."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.stages import reinforce
from phys4d.stages.spec import Drawn, Shares
from tests.stages.objectives.reinforce_by_hand import CLIPS, KEYS, POLICY, SEED, SETTINGS, STEP, drawn, losses


def test_the_batches_of_a_step_are_the_conditions_and_one_of_clips_for_each_drawn_step(
    objective: Callable[..., Any],
) -> None:
    """Two drawn steps: the clips of optimizer step k of update 7 are batch 2 * 7 + k."""
    conditions, clips = Drawn("reinforce", 7, 2), "reinforce flow matching"
    settings = SETTINGS | {"flow_matching_batch": 3}
    found = objective(reinforce, **settings).batches(7)
    assert found == [conditions, Drawn(clips, 14, 3), Drawn(clips, 15, 3)]
    assert objective(reinforce, **settings | {"flow_matching": 0.0}).batches(7) == [conditions]


@pytest.mark.parametrize("flow_matching", [0.3, 0.0])
def test_the_clips_that_are_read_are_those_of_the_batches_and_pixels_those_of_the_conditions(
    objective: Callable[..., Any], source: Any, monkeypatch: pytest.MonkeyPatch, flow_matching: float
) -> None:
    stage, asked = objective(reinforce, **SETTINGS | {"flow_matching": flow_matching}), []
    whole, fetched = source.batch, []

    def batch(size: int, parallel: Any, seed: int, name: str, number: int, *rest: Any, pixels: bool = False) -> Any:
        asked.append((Drawn(name, number, size), pixels))
        return whole(size, parallel, seed, name, number, *rest, pixels=pixels)

    monkeypatch.setattr(source, "batch", batch)
    monkeypatch.setattr(source, "fetch", lambda size, _, seed, name, number: fetched.append(Drawn(name, number, size)))
    stage.leave_out_values()
    stage.update(STEP, lambda parts: [part() for part in parts])
    conditions, *clips = stage.batches(STEP)
    assert asked == [(conditions, True), *((one, False) for one in clips)] and fetched == clips


def test_samples_in_micro_batches_are_those_of_the_step_in_order(objective: Callable[..., Any], source: Any) -> None:
    """Four samples, three at once: shares 3/4 and 1/4; of their clips the text is kept, and no pixels."""
    stage = objective(reinforce, **SETTINGS, micro_batch=3)
    conditions = source.batch(2, stage.parallel, SEED, "reinforce", STEP)
    parts = stage._samples(conditions, 2)
    assert [part.conditions for part in parts] == [CLIPS[:3], CLIPS[3:]]
    assert [part.batch.rng_keys for part in parts] == [KEYS[:3], KEYS[3:]]
    assert [part.batch.share for part in parts] == [0.75, 0.25]
    for part in parts:
        assert torch.equal(part.clean, 2 * source.video[part.conditions])
        assert torch.equal(part.first, 2 * source.video[part.conditions, :, :1])
        assert torch.equal(part.batch.text, conditions.text[part.conditions])
        assert part.batch.video.numel() == 0 and part.batch.arrays == {} and part.none is None
    (whole,) = objective(reinforce, **SETTINGS, guidance=1.5)._samples(conditions, 2)
    assert whole.conditions == CLIPS and whole.none is not None and (whole.none == -0.3).all()


def test_a_part_of_the_samples_has_its_share_of_the_loss_and_ratios_without_a_graph(
    objective: Callable[..., Any], source: Any
) -> None:
    """The policy that drew them is the one that is trained: ratio 1, and the KL is 0.4 times that by hand."""
    stage = objective(reinforce, **SETTINGS | {"flow_matching": 0.0}, micro_batch=1)
    conditions = source.batch(2, stage.parallel, SEED, "reinforce", STEP)
    parts, ratios, logged = stage._samples(conditions, 2), list[Tensor](), Shares()
    advantage = torch.tensor([1.0])
    for part in parts:
        with torch.no_grad():
            _, transitions = stage._rollout(part)
        loss = stage._policy_loss(transitions[0], part, advantage, ratios, logged)
        assert loss.requires_grad
    steps, _ = drawn(source, "flow_sde")
    kl = losses(source, steps, 0, POLICY, "flow_sde", [1.0] * 4)["kl"]
    assert torch.cat(ratios).tolist() == pytest.approx([1.0] * 4) and not any(r.requires_grad for r in ratios)
    assert float(logged.sums["kl"]) == pytest.approx(kl / 2, rel=1e-4)  # one of two drawn steps
    assert float(logged.sums["policy_loss"]) == pytest.approx(-1 / 2, rel=1e-4)


def test_a_step_without_values_checks_no_replay_and_rewards_nothing(
    objective: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of such tensors there is nothing to compare: with a replay that is off, the step goes on."""
    monkeypatch.setattr(reinforce, "check_replay", lambda *given: pytest.fail("compared"))
    stage = objective(reinforce, **SETTINGS)
    stage.leave_out_values()
    report = stage.update(STEP, lambda parts: [part() for part in parts])
    assert float(report["reward"]) == 0 and float(report["zero_variance_share"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "stochastic_steps": 3}, "stochastic_steps must be below steps"),
        ({"sampler": "cps", "noise_level": 1.5}, "choose one above 0 and up to 1"),
    ],
)
def test_steps_that_cannot_be_drawn_are_refused(
    objective: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        objective(reinforce, **settings)
    objective(reinforce, steps=3, stochastic_steps=2, noise_level=1.0, sampler="cps")
    objective(reinforce, noise_level=1.5)
