"""AdamW of torch, of NVIDIA apex, and in the host's memory: the same steps, however they are computed."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.engine.training import adam
from phys4d.engine.training.optimizer import Optimizer, OptimizerConfig


def trained(config: OptimizerConfig, *, bad: int = 3, state: dict[str, Tensor] | None = None) -> Optimizer:
    """After six steps on two groups, of which step `bad` has no finite gradient; state: restored first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    groups = [{"params": list(net[0].parameters())}, {"params": list(net[2].parameters()), "lr_scale": 0.5}]
    optimizer = Optimizer(config, {"net": net}, groups)
    if state is not None:
        own = optimizer.state()
        assert own.keys() == state.keys()
        for name, value in own.items():
            value.copy_(state[name])
    start = optimizer.updates
    for step in range(start, start + 6):
        optimizer.schedule(20, step)
        x = torch.linspace(-1, 1, 15).reshape(5, 3) + step
        factor = math.nan if step == bad else 50.0
        optimizer.optimizer_step([lambda x=x, factor=factor: net(x).square().mean() * factor])
    return optimizer


PLAIN = OptimizerConfig(learning_rate=1e-2, warmup_steps=4, weight_decay=0.1, ema=0.9)


@pytest.mark.parametrize("offload", [("moments",), ("ema",), ("moments", "ema")])
def test_moments_and_averages_in_host_memory_give_the_same_weights(offload: tuple[str, ...]) -> None:
    expected = trained(PLAIN).state()
    changed = PLAIN.model_copy(update={"offload": offload})
    tested = trained(changed).state()
    assert expected.keys() == tested.keys()
    assert all(torch.equal(expected[name], tested[name]) for name in expected)
    resumed = trained(changed, bad=-1, state=expected).state()  # from a state that was trained without it
    again = trained(PLAIN, bad=-1, state=tested).state()
    assert all(torch.equal(resumed[name], again[name]) for name in again)


class FusedAdam(torch.optim.Optimizer):
    """A stand-in with the interface and the bookkeeping of apex.optimizers.FusedAdam (capturable, 2026): rates are
    tensors, steps are counted by group, and a flag makes the kernel change nothing."""

    def __init__(self, params: Any, betas: Any, weight_decay: float, adam_w_mode: bool, capturable: bool) -> None:
        assert adam_w_mode and capturable
        super().__init__(params, {"lr": 1e-3, "betas": betas, "eps": 1e-8, "weight_decay": weight_decay})
        for group in self.param_groups:
            group["lr"] = torch.tensor(group["lr"])
        self._dummy_overflow_buf = torch.tensor([0], dtype=torch.int)

    def step(self, closure: Any = None, *, grad_scaler: Any) -> None:
        for group in self.param_groups:
            group["step"] += (self._dummy_overflow_buf != 1).to(torch.int)
            self._dummy_overflow_buf.copy_(grad_scaler._check_inf_per_device(self)[torch.device("cpu")])
            assert float(grad_scaler._get_scale_async()) == 1
            if self._dummy_overflow_buf.item():
                continue
            (first, second), step = group["betas"], int(group["step"])
            for weight in group["params"]:
                m, v, g = self.state[weight]["exp_avg"], self.state[weight]["exp_avg_sq"], weight.grad
                m.lerp_(g, 1 - first)
                v.mul_(second).addcmul_(g, g, value=1 - second)
                update = m / (1 - first**step) / ((v / (1 - second**step)).sqrt() + group["eps"])
                weight.sub_(group["lr"] * (update + group["weight_decay"] * weight))


def test_apex_is_given_rates_steps_and_the_flag_of_a_bad_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("apex.optimizers")
    module.FusedAdam = FusedAdam  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", module)
    expected = trained(PLAIN).state()
    tested = trained(PLAIN.model_copy(update={"adam": "apex"})).state()
    assert expected.keys() == tested.keys()
    for name, value in expected.items():
        torch.testing.assert_close(tested[name], value, rtol=1e-5, atol=1e-7)
    assert int(tested["optimizer.net.0.weight.step"]) == 5
    on = trained(PLAIN.model_copy(update={"adam": "apex"}), bad=-1, state=expected).state()
    assert int(on["optimizer.net.2.bias.step"]) == 11


def test_an_adam_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, cpu = "finetune.optimizer.adam", torch.device("cpu")
    adam.check_adam("torch", cpu, where)
    absent = r'^finetune.optimizer.adam: "apex" is not installed: build it .* or choose "torch"$'
    with pytest.raises(UserError, match=absent):
        adam.check_adam("apex", cpu, where)
    (tmp_path / "apex" / "optimizers").mkdir(parents=True)
    (tmp_path / "apex" / "optimizers" / "fused_adam.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="runs on CUDA, not on cpu"):
        adam.check_adam("apex", cpu, where)
    adam.check_adam("apex", torch.device("cuda"), where)


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"adam": "apex", "offload": ("moments",)}, 'is for adam = "torch"'), ({"offload": ("ema",)}, "set ema")],
)
def test_combinations_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimizerConfig(learning_rate=1e-2, **keys)
