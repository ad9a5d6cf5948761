"""The optimizer: torch's AdamW, a schedule that is a function of the step, clipping, averaged weights."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from phys4d.engine.training.optimizer import Optimizer, OptimizerConfig, learning_rate


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def optimizer(net: nn.Module, **options: float) -> Optimizer:
    config = OptimizerConfig(**({"learning_rate": 1e-2} | options))  # type: ignore[arg-type]
    return Optimizer(config, {"net": net}, [{"params": list(net.parameters()), "lr_scale": 1.0}])


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    return net(torch.linspace(-1, 1, 15).reshape(5, 3) + step).square().mean() * 50


def test_equals_torch_adamw_with_clipping() -> None:
    tested, reference = small(), small()
    state = optimizer(tested, weight_decay=0.1, clip_norm=0.5)
    adamw = torch.optim.AdamW(reference.parameters(), 1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step in range(5):
        norm = state.optimizer_step([lambda step=step: loss_of(tested, step)])
        adamw.zero_grad()
        loss_of(reference, step).backward()
        assert torch.equal(norm, nn.utils.clip_grad_norm_(reference.parameters(), 0.5)) and norm > 0.5
        adamw.step()
    for a, b in zip(tested.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ema_is_the_recursion_and_replaces_the_weights_when_asked() -> None:
    net = small()
    state = optimizer(net, ema=0.5)
    expected = [parameter.detach().clone() for parameter in net.parameters()]
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5)):
        state.optimizer_step([lambda step=step: loss_of(net, step)])
        for average, parameter in zip(expected, net.parameters(), strict=True):
            average.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
    assert not torch.allclose(expected[0], next(net.parameters()))
    state.use_ema()
    for average, parameter in zip(expected, net.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), average, rtol=1e-6, atol=1e-7)


@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 20),
    fraction=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
)
def test_the_schedule_rises_holds_and_falls(steps: int, warmup: int, fraction: float) -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=warmup, decay_fraction=fraction)
    rates = [learning_rate(config, steps, step) for step in range(steps)]
    assert all(0 < rate <= 2.0 for rate in rates)
    decay = round(steps * fraction)
    if warmup + decay <= steps:
        rise, hold, fall = rates[:warmup], rates[warmup : steps - decay], rates[steps - decay :]
        assert all(a < b for a, b in itertools.pairwise(rise)) and set(hold) <= {2.0}
        assert all(a > b for a, b in itertools.pairwise(fall))
        if decay:
            assert rates[-1] == pytest.approx(0.04)
        if warmup:
            assert rates[0] == pytest.approx(2.0 / warmup)


def test_groups_scale_the_rate_and_frozen_parameters_stay() -> None:
    net = small()
    net[0].requires_grad_(False)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    group = {"params": list(net[2].parameters()), "lr_scale": 0.25}
    state = Optimizer(OptimizerConfig(learning_rate=1e-2, ema=0.9), {"net": net}, [group])
    assert state.schedule(10, 0) == 1e-2 and state.update.adam._adam.param_groups[0]["lr"] == 2.5e-3
    state.optimizer_step([lambda: loss_of(net, 0)])
    assert [torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    assert {name for name in state.state() if name.startswith(("model", "ema"))} == {
        f"{kind}.net.2.{name}" for kind in ("model", "ema") for name in ("weight", "bias")
    }


def test_groups_must_hold_what_is_trained() -> None:
    net = small()
    for params in ([], list(net[0].parameters()), [*net.parameters(), nn.Parameter(torch.zeros(1))]):
        with pytest.raises(ValueError, match="must hold what modules train"):
            Optimizer(OptimizerConfig(learning_rate=1.0), {"net": net}, [{"params": params}])
