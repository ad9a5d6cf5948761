"""Compiling a model's blocks one by one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from phys4d.engine.errors import UserError

_BUDGET = 0.5
_GRAPHS = 128  # that blocks of equal code may have: about 7 for each size of clips


def compile_blocks(blocks: Sequence[nn.Module], mode: str, *, by_size: bool = False) -> None:
    """Has torch.compile compile each block's forward as one graph; blocks of equal code share what is compiled.

    mode: of activation checkpointing. "selective" is then up to the compiler, which keeps what is dearest to compute
        again within half of the memory that all activations would take.
    by_size: whether each size of clips is compiled for itself, as blocks need that exchange tokens with other ranks:
        what they send has to be known; otherwise what is compiled at a second size serves all further ones.

    Nothing falls back to eager code: what cannot be compiled raises UncompiledBlock, which names the block, and clips
    of too many sizes UserError. Call it before `checkpoint_activations`, whose "full" and "every_N" stand around a
    compiled block.
    """
    if mode == "selective":
        torch._functorch.config.activation_memory_budget = _BUDGET
    if by_size:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    for number, block in enumerate(blocks):
        forward = torch.compile(block.forward, fullgraph=True, dynamic=False if by_size else None)
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
            raise UncompiledBlock(f"compile: block {self.number} cannot be compiled whole: {_reason(error)}") from error
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise UserError(
                f"compile: block {self.number} was compiled {torch._dynamo.config.recompile_limit} times, for clips of "
                "too many sizes: take clips of fewer sizes, or compile = false"
            ) from error


def _reason(error: Exception) -> str:
    """What torch.compile says is wrong and where, without its advice, on one line."""
    lines = (line.strip() for line in str(error).splitlines())
    said = [line for line in lines if not line.startswith(("Explanation:", "Hint:", "For more details"))]
    return " ".join(" ".join(said).split())[:300]
