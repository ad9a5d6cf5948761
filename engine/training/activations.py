"""Activation checkpointing: which activations of a model's blocks are kept for the backward pass."""

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

MODES = r"none|full|selective|every_[1-9][0-9]*"
"""Pattern of the run file's key `checkpointing`."""

_aten = torch.ops.aten
_MATMULS = (_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.linear.default)
_ATTENTION = (
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
)


def checkpoint_activations(blocks: Sequence[nn.Module], mode: str, dear: Collection[Any] = ()) -> None:
    """Has blocks keep fewer activations for their backward pass; gradients have the same bits.

    mode: "none" keeps all. "full" keeps the inputs of each block and computes the rest again. "every_N" does so for
        every N-th block, from the first on. "selective" computes again what is cheap: it keeps the results of attention
        and of every other matrix product.
    dear: further operators (`torch.ops.<...>.default`) whose results "selective" keeps.

    A block whose forward is evaluated without gradients is called as it is. Forward hooks of a block run once, when it
    is evaluated, and not when it is computed again. Call it after the blocks' forwards were replaced, and before they
    are sharded.
    """
    if re.fullmatch(MODES, mode) is None:
        raise ValueError(f"checkpointing {mode!r}: expected none, full, selective, or every_N such as every_2")
    every = int(mode.removeprefix("every_")) if mode.startswith("every_") else 1
    for number, block in enumerate(blocks):
        if mode != "none" and number % every == 0:
            contexts = partial(_selective, frozenset((*_ATTENTION, *dear))) if mode == "selective" else None
            block.forward = Recomputed(block.forward, contexts)  # type: ignore[method-assign,assignment]


class Recomputed:
    """A module's forward whose activations are computed again in the backward pass.

    inner_forward: what it calls. contexts: makes the two contexts that say what is kept, as of torch's `checkpoint`.
    """

    def __init__(
        self,
        inner_forward: Callable[..., Any],
        contexts: Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]] | None,
    ) -> None:
        self.inner_forward = inner_forward
        self._options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if contexts is not None:
            self._options["context_fn"] = contexts

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.inner_forward(*arguments, **options)
        return checkpoint(self.inner_forward, *arguments, **self._options, **options)


def _selective(dear: Collection[Any]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    counts = {False: 0, True: 0}  # matrix products so far, when evaluated and when computed again

    def policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
        keep = operator in dear
        if operator in _MATMULS:
            counts[context.is_recompute] += 1
            keep = counts[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    contexts: tuple[AbstractContextManager[Any], AbstractContextManager[Any]] = create_selective_checkpoint_contexts(
        policy
    )
    return contexts
