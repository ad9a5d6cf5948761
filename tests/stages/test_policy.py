"""PPO's parts: advantages within groups, the clip, and the gate on the first ratios."""

import pytest
import torch

from phys4d.engine.distributed.parallel import Parallel
from phys4d.stages.reinforce import check_replay, clipped_policy_loss, group_advantages, shuffled


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


def test_a_small_variance_is_divided_by_a_little_more() -> None:
    """Rewards 0 and 2e-5: deviation sqrt(2) e-5, and a millionth on top. Of deviations below that, nothing."""
    advantage, _ = group_advantages(torch.tensor([0.0, 2e-5, 0.0, 1e-6], dtype=torch.float64), 2, clip=10)
    a = 1e-5 / (2**0.5 * 1e-5 + 1e-6)
    assert advantage.tolist() == pytest.approx([-a, a, 0, 0])
    advantage, _ = group_advantages(torch.tensor([0.0, 2.1e-6], dtype=torch.float64), 2, clip=10)
    assert advantage.abs().min() > 0.4


def test_the_control_permutes_advantages_within_groups() -> None:
    advantage = torch.arange(24.0)
    rng_keys: list[tuple[int | str, ...]] = [
        (7, "reinforce", 3, clip, member) for clip in range(4) for member in range(6)
    ]
    mixed = shuffled(advantage, 6, rng_keys)
    assert torch.equal(mixed.view(4, 6).sort(1).values, advantage.view(4, 6))
    assert (mixed.view(4, 6) != advantage.view(4, 6)).any(1).all()
    assert len({tuple((row - row.min()).tolist()) for row in mixed.view(4, 6)}) > 1
    assert torch.equal(mixed, shuffled(advantage, 6, rng_keys))


def test_the_clip_stops_the_gradient_outside_its_range_and_only_there() -> None:
    def gradient(ratio: float, advantage: float) -> float:
        r = torch.tensor([ratio], requires_grad=True)
        clipped_policy_loss(r, torch.tensor([advantage]), 0.2).backward()
        return float(r.grad)

    assert gradient(1.0, 2.0) == -2.0 and gradient(1.0, -2.0) == 2.0
    assert gradient(1.3, 2.0) == 0 and gradient(0.7, -2.0) == 0
    assert gradient(0.7, 2.0) == -2.0 and gradient(1.3, -2.0) == 2.0


class Ranks(Parallel):
    """Alone, but for what another rank says."""

    def __init__(self, elsewhere: bool) -> None:
        super().__init__(0, 1, torch.device("cpu"), None)
        self.elsewhere = elsewhere

    def any(self, flag: bool) -> bool:
        return flag or self.elsewhere


@pytest.mark.parametrize("bad", [1.01, 1 - 2e-4, float("nan")])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_drawn_step_that_does_not_replay_stops_the_run(step: int, bad: float) -> None:
    ratios = [torch.tensor([1.0, 1 + 1e-6]), torch.tensor([1 - 5e-5, 1.0]), torch.tensor([1.0, 1.0])]
    check_replay(ratios, Ranks(False))
    ratios[step] = torch.tensor([1.0, bad])
    with pytest.raises(RuntimeError, match=f"drawn step {step + 1} of 3: off by"):
        check_replay(ratios, Ranks(False))


def test_every_rank_stops_where_one_does_not_replay() -> None:
    with pytest.raises(RuntimeError, match="on another rank"):
        check_replay([torch.ones(2)], Ranks(True))
