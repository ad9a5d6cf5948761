"""What the attention processors of all families share: the way to the model's own, the norms that they bypass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import QKNorm
from phys4d.kernels.elementwise.norm_rope import Kind
from phys4d.kernels.integrate.diffusers.bypass import Known, known_forwards, mask_refusal, refusal, submodule
from phys4d.kernels.integrate.diffusers.setting import Setting


class Processor:
    """An attention processor that computes with this package what the model's `own` processor would.

    A family derives its processor from this class and writes `__call__` with the arguments of the model's own one:
    diffusers looks at their names. Diffusers sets its own backend and its context parallelism as attributes of
    processors; on one that computes with neither they would be ignored in silence, so they are refused.

    Attributes:
        path: of the attention module in the model.
        own: the processor that was there.
        swaps: what of the module is computed here, for the report.
        norms: names of the norms that are bypassed where they may be.
        known: the classes of norms that may be bypassed.
    """

    norms: tuple[str, ...] = ()

    def __init__(self, path: str, own: Any, setting: Setting, swaps: str, known: Known | None = None) -> None:
        self.path, self.own, self.setting, self.swaps, self.known = path, own, setting, swaps, known or {}

    def pass_on(self, why: str, *arguments: Any) -> Any:
        """Calls the model's own processor, and notes the reason in the report."""
        self.setting.pass_on(self.path, why)
        return self.own(*arguments)

    def qk_norm(
        self, kind: Kind, attn: Any, x: Tensor, q_name: str = "norm_q", k_name: str = "norm_k"
    ) -> QKNorm | None:  # fmt: skip
        """The two norms of `attn` as an argument of `attention`, for queries x [B, S, heads * D].

        None: they are absent or must be called as they are, which the report names; see `called`.
        """
        norm_q, norm_k = submodule(attn, q_name), submodule(attn, k_name)
        if norm_q is None and norm_k is None:
            return None
        why = (
            refusal(norm_q, self.known, x.device)
            or refusal(norm_k, self.known, x.device)
            or _mismatch(kind, norm_q, norm_k, x.shape[-1], int(attn.heads))
        )
        if why is not None:
            self.setting.called.setdefault(self.path, f"{q_name} and {k_name}: {why}")
            return None
        q, k = norm_q._parameters, norm_k._parameters
        return QKNorm(kind, q["weight"], k["weight"], q.get("bias"), k.get("bias"), norm_q.eps)

    def reasons(self, attn: Any) -> Iterator[str]:
        """The norms that are called as they are, as the module stands, whatever the device of its input."""
        for name in self.norms:
            norm = getattr(attn, name, None)
            if norm is not None and (why := refusal(norm, self.known, None)):
                yield f"{name} is called as it is: {why}"

    def undo(self, attn: Any) -> None:
        """Puts the model's own processor back, unless another one has been set since, and becomes a copy of it: what
        still holds this object, such as a cache or a list of processors to be restored, computes as before the swap."""
        if attn.processor is self:
            set_processor(attn, self.own)
        own = self.own
        self.__class__ = type(own)
        self.__dict__ = own.__dict__

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


def set_processor(attn: Any, processor: Any) -> None:
    """Sets the processor of an attention module; not all of diffusers' have a method for it."""
    if hasattr(attn, "set_processor"):
        attn.set_processor(processor)
    else:
        attn.processor = processor


def _mismatch(kind: Kind, norm_q: Any, norm_k: Any, channels: int, heads: int) -> str | None:
    """Why this pair of known norms is not the one that QKNorm describes; None if it is."""
    width = channels if kind == "rms_across_heads" else channels // heads
    for norm in (norm_q, norm_k):
        parameters = norm._parameters
        weight = parameters["weight"]
        if weight is None or weight.shape != (width,) or norm.eps is None:
            return f"without {width} weights or without an epsilon"
        if kind != "layer" and parameters.get("bias") is not None:
            return "an RMS norm with a bias"
    return "different epsilons" if norm_q.eps != norm_k.eps else None


def known_qk_norms(kind: Kind) -> Known:
    """The classes of norms of queries and keys that QKNorm describes."""
    from diffusers.models.normalization import RMSNorm

    return known_forwards(nn.LayerNorm) if kind == "layer" else known_forwards(nn.RMSNorm, RMSNorm)


def called(norm: Any, x: Tensor) -> Tensor:
    """What a norm computes, x itself where there is none."""
    return x if norm is None else norm(x)


def score_mask(attn: Any, mask: Tensor | None, tokens: Tensor, keys: int) -> Tensor | str | None:
    """What diffusers' `prepare_attention_mask` and a view make of a processor's mask: one that `attention` takes, with
    an axis of heads of 1 where all are equal; or why that cannot be.

    Args:
        attn: the attention module.
        mask: bool or floating: [B, 1, keys], [B, 1, S or 1, keys], or another that `prepare_attention_mask` takes.
        tokens: [B, S, C], of the queries.
        keys: how many keys there are.
    """
    if mask is None or (why := mask_refusal(mask.flatten(0, -2)[None, None, :1], tokens, 1, keys)):
        return None if mask is None else why
    if mask.ndim == 3 and mask.shape[0] == tokens.shape[0]:
        mask = mask[:, None]
    elif mask.ndim != 4 or mask.shape[:2] != (tokens.shape[0], 1):
        prepared = attn.prepare_attention_mask(mask, keys, tokens.shape[0])
        mask = prepared.view(tokens.shape[0], int(attn.heads), -1, keys)
    return mask_refusal(mask, tokens, int(attn.heads), keys) or mask


def first_tokens(tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, S, C] with the valid ones, [B, S] bool, first and otherwise in their order, and how many these are,
    [B]. Attention does not depend on the order of its keys."""
    order = (~valid).to(torch.int8).argsort(dim=1, stable=True)
    return tokens.gather(1, order[..., None].expand_as(tokens)), valid.sum(dim=1)


def heads_of(x: Tensor, attn: nn.Module) -> Tensor:
    """[B, S, heads * D] as [B, S, heads, D]."""
    return x.unflatten(2, (int(attn.heads), -1))  # type: ignore[arg-type]


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
