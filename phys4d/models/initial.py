"""Initial weights from counter-based noise: the same on every rank and in every run, whatever else draws numbers.

The distributions are those of torch's own layers. Each parameter depends on its key and its name alone: not on ranks,
on torch's generators, or on the order in which modules are built.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from phys4d.engine.random import uniform

LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)
_DRAWN = ContextVar("_DRAWN", default=True)


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Within it parameters keep what their memory holds: for models that are counted, not run."""
    token = _DRAWN.set(False)
    try:
        yield
    finally:
        _DRAWN.reset(token)


@torch.no_grad()
def draw_layers(module: nn.Module, *key: int | str) -> None:
    """Draws weight and bias of each linear and convolutional layer in `module`, uniform within 1 / sqrt(fan in).

    That is torch's default (Kaiming with a = sqrt(5)). The noise of a parameter is keyed by (*key, its name).
    """
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part, parameter in layer.named_parameters():
                draw_uniform(parameter, bound, *key, f"{name}.{part}")


@torch.no_grad()
def draw_uniform(parameter: Tensor, bound: float, *key: int | str) -> None:
    """Fills a parameter with numbers uniform in [-bound, bound), a function of the key alone."""
    if _DRAWN.get():
        parameter.copy_((2 * uniform(parameter.shape, *key) - 1) * bound)
