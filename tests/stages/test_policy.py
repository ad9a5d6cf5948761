"""PPO's parts: advantages within groups, the clip, and the gate on the first ratio."""

import pytest
import torch

from phys4d.clips import Batch
from phys4d.stages.reinforce import check_first_ratio, clipped_policy_loss, group_advantages, shuffled


def test_advantages_are_standardised_within_each_group_whatever_the_scale() -> None:
    reward = torch.randn(3, 8) * torch.tensor([[1.0], [100.0], [0.01]]) + torch.tensor([[0.0], [5.0], [-3.0]])
    advantage, spread = group_advantages(reward.flatten(), 8, clip=10)
    grouped = advantage.view(3, 8)
    torch.testing.assert_close(grouped.mean(1), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(grouped.std(1), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(spread, reward.std(1))


def test_a_group_without_variance_teaches_nothing_and_outliers_are_clipped() -> None:
    advantage, _ = group_advantages(torch.tensor([2.0] * 4 + [0.0, 0, 0, 100]), 4, clip=1.0)
    assert (advantage[:4] == 0).all() and advantage[4:].abs().max() <= 1.0


def test_the_control_permutes_advantages_within_groups() -> None:
    advantage = torch.arange(24.0)
    none = torch.zeros(0)
    draws: list[tuple[int | str, ...]] = [(7, "reinforce", 3, clip, member) for clip in range(4) for member in range(6)]
    batch = Batch(none, none, {}, none, draws)
    mixed = shuffled(advantage, 6, batch)
    assert torch.equal(mixed.view(4, 6).sort(1).values, advantage.view(4, 6))
    assert (mixed.view(4, 6) != advantage.view(4, 6)).any(1).all()
    assert len({tuple((row - row.min()).tolist()) for row in mixed.view(4, 6)}) > 1
    assert torch.equal(mixed, shuffled(advantage, 6, batch))


def test_the_clip_stops_the_gradient_outside_its_range_and_only_there() -> None:
    def gradient(ratio: float, advantage: float) -> float:
        r = torch.tensor([ratio], requires_grad=True)
        clipped_policy_loss(r, torch.tensor([advantage]), 0.2).backward()
        return float(r.grad)

    assert gradient(1.0, 2.0) == -2.0 and gradient(1.0, -2.0) == 2.0
    assert gradient(1.3, 2.0) == 0 and gradient(0.7, -2.0) == 0
    assert gradient(0.7, 2.0) == -2.0 and gradient(1.3, -2.0) == 2.0


def test_first_ratio_off_one_stops_the_run() -> None:
    check_first_ratio(torch.tensor([1.0, 1 + 1e-6]))
    for bad in (1.01, float("nan")):
        with pytest.raises(RuntimeError, match="off 1 by"):
            check_first_ratio(torch.tensor([1.0, bad]))
