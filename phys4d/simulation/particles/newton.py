"""Newton and Warp, imported when first needed: they are an extra, and take seconds to load."""

import os
from functools import cache
from types import ModuleType

from phys4d.engine.errors import UserError

DEVICE = "cpu"  # results of a GPU would differ


@cache
def newton() -> ModuleType:
    """The module `newton`, with Warp made quiet. Raises UserError when it is not installed."""
    try:
        import warp
    except ImportError as error:
        raise _missing(error) from error
    warp.config.log_level = warp.LOG_ERROR
    # No gradients are asked for, and without them kernels compile in half of the time.
    warp.config.enable_backward = False
    _start_quietly(warp)
    try:
        import newton as module
    except ImportError as error:
        raise _missing(error) from error
    return module


def _missing(error: ImportError) -> UserError:
    return UserError(f'simulate: what flows and melts needs Newton ({error}): pip install "phys4d[newton]"')


def _start_quietly(warp: ModuleType) -> None:
    """Starts Warp, whose native part writes to stderr by itself that there is no GPU."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        warp.init()
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)
