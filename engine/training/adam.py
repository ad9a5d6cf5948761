"""AdamW over this rank's shards: torch's on the device, NVIDIA apex's, or torch's in the host's memory."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from phys4d.engine.distributed.collectives import local
from phys4d.engine.distributed.flat import FlatPart
from phys4d.engine.distributed.sharded_update import Groups
from phys4d.engine.errors import UserError

AdamName = Literal["torch", "apex"]

_FUSED = ("cpu", "cuda")  # device types for which torch has a fused AdamW, which can skip a step without a host sync
_BUILD_APEX = "build it from the repository NVIDIA/apex (the package named apex in the index is unrelated)"

class Adam:
    """torch's AdamW, fused where the device has it, over plain tensors: no operator goes through DTensor's dispatch.

    parameters: by name, sharded or not. groups: of their names. betas, weight_decay: of all.

    Attributes:
        moments: by parameter, then "step", "exp_avg" and "exp_avg_sq", sharded as the parameter; from the start, so
            that every checkpoint has the same names.
        weights: what is stepped, by name: this rank's shards.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], groups: Groups, betas: tuple[float, float], weight_decay: float
    ) -> None:
        self.parameters = parameters
        self.weights = self._own(parameters)
        device = next(iter(self.weights.values())).device
        self._syncs = device.type not in _FUSED
        self.moments = {name: self._zeros(parameter, device) for name, parameter in parameters.items()}
        table: list[dict[str, Any]] = [
            {"params": [self.weights[name] for name in group["params"]], "lr_scale": group["lr_scale"]}
            for group in groups
        ]
        self._adam = self._made(table, betas, weight_decay)
        for name, shard in self.weights.items():
            self._adam.state[shard] = {key: local(value) for key, value in self.moments[name].items()}

    def _own(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: local(value.detach()) for name, value in parameters.items()}

    def _zeros(self, parameter: Tensor, device: torch.device) -> dict[str, Tensor]:
        step = torch.zeros((), dtype=torch.float32, device="cpu" if self._syncs else device)
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def _made(self, table: list[dict[str, Any]], betas: tuple[float, float], weight_decay: float) -> Any:
        fused = not self._syncs
        return torch.optim.AdamW(table, betas=betas, weight_decay=weight_decay, foreach=not fused, fused=fused)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the groups, each times its scale."""
        for group in self._adam.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def step(self, gradients: Mapping[str, Tensor | None], finite: Tensor) -> None:
        """One step, without a host sync; where `finite` (bool, a scalar on the device) is false, it changes nothing.

        gradients: of this rank's shards, by name.
        """
        for name, shard in self.weights.items():
            shard.grad = gradients[name]
        self._take(finite)
        for shard in self.weights.values():
            shard.grad = None

    def _take(self, finite: Tensor) -> None:
        if not self._syncs:
            self._adam.found_inf = (~finite).to(torch.float32)
            self._adam.step()
        elif finite:  # a host sync: torch's AdamW for other devices cannot skip a step by itself
            self._adam.step()


class ApexAdam(Adam):
    """NVIDIA apex's FusedAdam on CUDA: one kernel for each 320 tensors of a group."""

    def _made(self, table: list[dict[str, Any]], betas: tuple[float, float], weight_decay: float) -> Any:
        fused = importlib.import_module("apex.optimizers").FusedAdam
        return fused(table, betas=betas, weight_decay=weight_decay, adam_w_mode=True, capturable=True)

    def set_rate(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"].fill_(rate * group["lr_scale"])

    def _take(self, finite: Tensor) -> None:
        skipped = (~finite).to(torch.float32).reshape(1)
        stepped = []
        for group in self._adam.param_groups:
            steps = [self._adam.state[shard]["step"] for shard in group["params"] if shard.grad is not None]
            if steps:  # FusedAdam counts steps by group, checkpoints by parameter; it adds the step that it takes
                group["step"] = steps[0].to(torch.int32).reshape(1)
            stepped += steps
        self._adam._dummy_overflow_buf.zero_()
        self._adam.step(grad_scaler=_Found(skipped))
        torch._foreach_add_(stepped, 1 - skipped[0])


class _Found:
    """What FusedAdam asks of a GradScaler: whether the step is skipped, and a scale of 1."""

    def __init__(self, skipped: Tensor) -> None:
        self._skipped = skipped

    def _check_inf_per_device(self, optimizer: Any) -> dict[torch.device, Tensor]:
        return {self._skipped.device: self._skipped}

    def _get_scale_async(self) -> Tensor:
        return torch.ones_like(self._skipped)


class HostAdam(Adam):
    """torch's fused AdamW on copies of the weights in the host's memory, where the moments are, too (ZeRO-Offload, Ren
    et al. 2021): 12 bytes a number instead of 8 on the device. Gradients and weights cross the bus once a step, and the
    host waits for them.
    """

    def _own(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._shards = super()._own(parameters)
        self._pins = next(iter(self._shards.values())).device.type == "cuda"
        self._gradients = {name: host_copy(shard, pin=self._pins) for name, shard in self._shards.items()}
        self._versions: dict[str, int] = {}
        return {name: host_copy(shard, pin=self._pins) for name, shard in self._shards.items()}

    def _zeros(self, parameter: Tensor, device: torch.device) -> dict[str, Tensor]:
        shape = local(parameter).shape
        moments = {key: torch.zeros(shape, dtype=parameter.dtype) for key in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros(())} | {key: sharded_as(parameter, part) for key, part in moments.items()}

    def step(self, gradients: Mapping[str, Tensor | None], finite: Tensor) -> None:
        copies: dict[str, Tensor | None] = dict.fromkeys(gradients)
        for name, gradient in gradients.items():
            if gradient is not None:
                copies[name] = self._gradients[name].copy_(gradient, non_blocking=True)
            if self._versions.get(name) != self._shards[name]._version:  # written elsewhere, as by a resume
                self.weights[name].copy_(self._shards[name], non_blocking=True)
        finite = finite.cpu()  # waits for the copies, too
        super().step(copies, finite)
        for name, weight in self.weights.items():
            self._shards[name].copy_(weight, non_blocking=True)
            self._versions[name] = self._shards[name]._version


def host_copy(tensor: Tensor, *, pin: bool) -> Tensor:
    """A copy in the host's memory, pinned or not."""
    return torch.empty_like(tensor, device="cpu", pin_memory=pin).copy_(tensor)


def sharded_as(tensor: Tensor, part: Tensor) -> Tensor:
    """A tensor of which this rank holds `part`, on whatever device, divided as another one of equal shape."""
    if isinstance(tensor, FlatPart):
        return FlatPart(part, tensor.start, tensor.shape)
    if not isinstance(tensor, DTensor):
        return part
    return DTensor(part, tensor._spec, requires_grad=False)  # from_local would move it to the mesh's device


ADAMS: dict[AdamName, Callable[..., Adam]] = {"torch": Adam, "apex": ApexAdam}


def check_adam(name: AdamName, device: torch.device, where: str) -> None:
    """UserError unless that AdamW runs here.

    name, device: what is asked for, and on which device. where: the key of the run file that asks for it.
    """
    if name != "apex":
        return
    if not nvidia_apex():
        raise UserError(f'{where}: "apex" is not installed: {_BUILD_APEX}, or choose "torch"')
    if device.type != "cuda":
        raise UserError(f'{where}: "apex" runs on CUDA, not on {device.type}: choose "torch"')


def nvidia_apex() -> bool:
    """Whether the installed package named apex is NVIDIA's, by its files; it is not imported."""
    spec = importlib.util.find_spec("apex")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return any((Path(folder) / "optimizers" / "fused_adam.py").exists() for folder in folders)
