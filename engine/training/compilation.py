"""Compiling a model's blocks one by one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

_BUDGET = 0.5


def compile_blocks(blocks: Sequence[nn.Module], mode: str) -> None:
    """Has torch.compile compile each block's forward as one graph; blocks of equal code share what is compiled.

    mode: of activation checkpointing. "selective" is then up to the compiler, which keeps what is dearest to compute
        again within half of the memory that all activations would take.

    Nothing falls back to eager code: what cannot be compiled raises UncompiledBlock, which names the block. Call it
    before `checkpoint_activations`, whose "full" and "every_N" stand around a compiled block.
    """
    if mode == "selective":
        torch._functorch.config.activation_memory_budget = _BUDGET
    for number, block in enumerate(blocks):
        forward = torch.compile(block.forward, fullgraph=True)
        block.forward = Compiled(number, block.forward, forward)  # type: ignore[method-assign,assignment]


class UncompiledBlock(RuntimeError):
    """A block that torch.compile cannot compile whole."""


class Compiled:
    """A block's compiled forward; number: of the block, inner_forward: what was compiled, compiled: what it gave."""

    def __init__(self, number: int, inner_forward: Callable[..., Any], compiled: Callable[..., Any]) -> None:
        self.number, self.inner_forward, self._compiled = number, inner_forward, compiled

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        try:
            return self._compiled(*arguments, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise UncompiledBlock(f"compile: block {self.number} cannot be compiled whole: {reason}") from error
