"""What the processors of all model families share: their setting, the way to the model's own, the norms they know."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import QKNorm
from phys4d.kernels.elementwise.norm_rope import Kind
from phys4d.kernels.integrate.diffusers.rotation import Rotation


@dataclass
class Setting:
    """What the processors of one transformer have in common.

    Attributes:
        backend: for `attention`.
        passed: path -> why a call went to the model's own processor.
        rotation: the tables of the transformer's angles.
        hooks: to be removed when the swap is undone.
    """

    backend: str
    passed: dict[str, str]
    rotation: Rotation = field(default_factory=Rotation)
    hooks: list[Any] = field(default_factory=list)


class Processor:
    """An attention processor that computes with this package what the model's `own` processor would.

    Diffusers sets its own backend and its context parallelism as attributes of processors; on one that computes with
    neither they would be ignored in silence, so they are refused.
    """

    def __init__(self, path: str, own: Any, setting: Setting, swaps: str) -> None:
        self.path, self.own, self.setting, self.swaps = path, own, setting, swaps

    def pass_on(self, why: str, *arguments: Any) -> Any:
        """Calls the model's own processor, and notes the reason in the report."""
        self.setting.passed.setdefault(self.path, why)
        return self.own(*arguments)

    @property
    def _attention_backend(self) -> None:
        return None

    @_attention_backend.setter
    def _attention_backend(self, backend: object) -> None:
        self._refuse(backend, "attention backend")

    @property
    def _parallel_config(self) -> None:
        return None

    @_parallel_config.setter
    def _parallel_config(self, config: object) -> None:
        self._refuse(config, "context parallelism")

    def _refuse(self, value: object, what: str) -> None:
        if value is not None:
            raise ValueError(f"{self.path} computes with phys4d.kernels: undo() that before diffusers' {what} is set")


def heads_of(x: Tensor, attn: nn.Module) -> Tensor:
    """[B, S, heads * D] as [B, S, heads, D]."""
    return x.unflatten(2, (int(attn.heads), -1))  # type: ignore[arg-type]


def norm_refusal(norm_q: Any, norm_k: Any, kind: Kind, width: int) -> str | None:
    """Why this pair of norms is not the one that QKNorm describes; None if it is.

    Hooks on a norm (offloading, casting) would not run, since its weight is read and it is not called.
    """
    from diffusers.models.normalization import RMSNorm

    known = (nn.LayerNorm,) if kind == "layer" else (nn.RMSNorm, RMSNorm)
    for norm in (norm_q, norm_k):
        if type(norm) not in known:
            return f"a norm of queries and keys that is not known ({type(norm).__name__})"
        if norm.weight is None or norm.weight.shape != (width,) or norm.eps is None:
            return f"a norm of queries and keys without {width} weights or without an epsilon"
        if kind != "layer" and getattr(norm, "bias", None) is not None:
            return "an RMS norm with a bias"
        if norm._forward_hooks or norm._forward_pre_hooks or "forward" in norm.__dict__:
            return "a norm of queries and keys with hooks, which would not run"
    if norm_q.eps != norm_k.eps:
        return "norms of queries and keys with different epsilons"
    return None


def norm_of(norm_q: Any, norm_k: Any, kind: Kind) -> QKNorm:
    """The pair of norms as arguments of `attention`."""
    q_bias, k_bias = (norm_q.bias, norm_k.bias) if kind == "layer" else (None, None)
    return QKNorm(kind, norm_q.weight, norm_k.weight, q_bias, k_bias, norm_q.eps)


def processor_refusal(attn: Any, *known: type) -> str | None:
    """Why this module's processor cannot be replaced; None if it is exactly one of the known classes."""
    found = type(attn.processor)
    if issubclass(found, Processor):
        return "swapped already"
    return None if found in known else f"its processor is not diffusers' own for this model ({found.__name__})"


def odd_heads(attn: Any, inner: int) -> str | None:
    """Why heads of this width cannot be served, None if they can."""
    dim = inner // attn.heads
    return f"heads of {dim} channels, an odd number" if dim % 2 else None


def after(attn: Any, out: Tensor, dtype: torch.dtype) -> Tensor:
    """Heads joined, then the output projection and its dropout: [B, S, heads, D] to [B, S, C]."""
    return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).to(dtype)))
