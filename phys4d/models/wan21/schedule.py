"""How Wan2.1 is sampled: the shift of each resolution, and else what scheduler/ says."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from phys4d.models.spec import Published, Sampling, Size
from phys4d.models.wan import schedule as wan

SHIFT = 3.0  # of the published folders, and for one without scheduler/
SHIFTS = {(480, 832): 3.0, (720, 1280): 5.0}  # of the sides that it was published with, the shorter one first
SCHEDULER: Mapping[str, Any] = {**wan.SCHEDULER, "flow_shift": SHIFT}
FRAMES = 81  # of the published clips

published_scheduler = partial(wan.published_scheduler, absent=SCHEDULER)
published_shift = partial(wan.published_shift, absent=SCHEDULER)


def shift_of(other: float, size: Size) -> float:
    """The shift for clips of `size` (frames, height, width): 3 at 480 x 832 and 5 at 720 x 1280, lying or standing, as
    diffusers' pipelines/wan/pipeline_wan.py advises; `other` for any other size."""
    short, long = sorted(size[1:])
    return SHIFTS.get((short, long), other)


def published_sampling(source: Published) -> Sampling:
    """Solver, guidance and size of the clips of a folder, or of a published model by its name, which may end in the
    rows that it was published with."""
    large = isinstance(source, str) and source.endswith("720p")
    if isinstance(source, Path):
        large = published_shift(source) == SHIFTS[720, 1280]
    return wan.published_sampling(source, SCHEDULER, (FRAMES, *((720, 1280) if large else (480, 832))))
