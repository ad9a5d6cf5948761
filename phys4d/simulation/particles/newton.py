"""Lazy import of Newton and Warp, which are an optional extra and take seconds to load."""

import os
from functools import cache
from types import ModuleType

from phys4d.engine.errors import UserError

DEVICE = "cpu"  # a GPU gives other bits


@cache
def newton() -> ModuleType:
    """The module `newton`, imported on the first call, with Warp's log silenced. Raises UserError if it is not
    installed.
    """
    try:
        import warp
    except ImportError as error:
        raise _missing(error) from error
    warp.config.log_level = warp.LOG_ERROR
    # Gradients are not needed; without them kernels compile in half of the time.
    warp.config.enable_backward = False
    _start_quietly(warp)
    try:
        import newton as module
    except ImportError as error:
        raise _missing(error) from error
    return module


def _missing(error: ImportError) -> UserError:
    return UserError(f'simulate: fluids and melting need Newton ({error}): pip install "phys4d[newton]"')


def _start_quietly(warp: ModuleType) -> None:
    """Initialises Warp with stderr redirected, since its native code reports a missing GPU there."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        warp.init()
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)
