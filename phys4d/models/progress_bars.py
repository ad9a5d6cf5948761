"""Loading weights of others without their progress bars, which would stand between this program's own lines."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Within it, diffusers and transformers draw no "Loading weights" bars; their warnings are printed as ever."""
    from transformers.utils import logging as transformers_logging

    both = (diffusers_logging, transformers_logging)
    shown = [module for module in both if module.is_progress_bar_enabled()]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()
