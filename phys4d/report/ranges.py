"""Colour ranges of a clip, common to all of its rows, and the errors that they are taken from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Ranges:
    """Colour ranges of one clip.

    near, far: depth, metres.
    motion: pixels.
    depth_error: relative.
    motion_error: pixels.
    colour_error: grey levels of 255.
    """

    near: float
    far: float
    motion: float
    depth_error: float = 0.05
    motion_error: float = 0.5
    colour_error: float = 16.0

    def shrunk(self, by: int) -> "Ranges":
        """Those of a clip whose sides are divided by a whole number."""
        return replace(self, motion=self.motion / by, motion_error=self.motion_error / by)


def true_ranges(depth: np.ndarray, motion: np.ndarray) -> Ranges:
    """Ranges of depth and motion of one clip, those of errors as small as they get.

    depth: [T, H, W], metres; what is not positive has no surface. motion: [>= 2, T-1, H, W], pixels.
    """
    surface = depth[depth > 0]
    near, far = (float(q) for q in np.percentile(surface, [0, 99.5])) if surface.size else (0.0, 1.0)
    return Ranges(near, far, _percentile([np.hypot(motion[0], motion[1])], 99.9, at_least=0.5))


def compared_ranges(truth: Mapping[str, np.ndarray], others: Sequence[Mapping[str, np.ndarray]]) -> Ranges:
    """Ranges of depth and motion from the truth only, of errors from the 99th percentile over all others.

    truth, others: video, depth and motion of one clip; what others lack is not compared.
    """
    found = true_ranges(truth["depth"], truth["motion"])
    errors = {"depth": depth_error, "motion": motion_error, "video": colour_error}
    listed = {name: [error(one[name], truth[name]) for one in others if name in one] for name, error in errors.items()}
    return replace(
        found,
        depth_error=_percentile(listed["depth"], 99, at_least=found.depth_error),
        motion_error=_percentile(listed["motion"], 99, at_least=found.motion_error),
        colour_error=_percentile(listed["video"], 99, at_least=found.colour_error),
    )


def depth_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative depth error |d − d*| / d*, [T, H, W]; NaN if there is no surface."""
    return np.abs(predicted - truth) / np.where(truth > 0, truth, np.nan)


def motion_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """End-point error in pixels, [T-1, H, W], of motion [3, T-1, H, W]."""
    return np.hypot(predicted[0] - truth[0], predicted[1] - truth[1])


def colour_error(generated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute difference over R, G, B, [T, H, W], in grey levels of 255."""
    return np.abs(generated.astype(np.float64) - truth.astype(np.float64)).mean(axis=-1)


def _percentile(arrays: Sequence[np.ndarray], percent: float, *, at_least: float) -> float:
    known = [array[np.isfinite(array)] for array in arrays]
    values = np.concatenate(known) if known else np.empty(0)
    return max(at_least, float(np.percentile(values, percent))) if values.size else at_least
