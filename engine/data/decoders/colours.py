"""Colours that DALI converted to RGB by BT.601 although the video is BT.709: undone and done again by one 3 x 3 matrix.

The matrix is exact but for rounding, except where the conversion by BT.601 left the range of a byte and was cut off:
saturated colours, pure green most (37 of 255 levels). `suspect` counts pixels that may be of these.
"""

from typing import Any

import numpy as np

BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
"""The weights of red and blue in luma."""
SATURATED = 32
"""Levels between the largest and the smallest channel from which on a pixel with a channel of 0 or 255 is suspect: a
grey one is not cut off."""
MOST_SUSPECT = 1e-3
"""Largest share of suspect pixels of a clip that is served."""


def to_rgb(weights: tuple[float, float]) -> np.ndarray:
    """[3, 3] from luma and the two colour differences, scaled to [-0.5, 0.5], to RGB (ITU-R BT.601 and BT.709)."""
    red, blue = weights
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


CORRECTION = to_rgb(BT709) @ np.linalg.inv(to_rgb(BT601))
"""[3, 3], from RGB that was converted by BT.601 to that by BT.709."""


def corrected(video: Any, fn: Any, types: Any) -> tuple[Any, Any]:
    """In a DALI graph: the video with colours of BT.709, and the share of its pixels that are suspect.

    video: uint8 [T, H, W, 3], converted by BT.601. fn, types: of DALI.
    """
    high, low = fn.reductions.max(video, axes=[3]), fn.reductions.min(video, axes=[3])
    suspect = ((high == 255) | (low == 0)) & (high > low + SATURATED)
    share = fn.reductions.mean(fn.cast(suspect, dtype=types.FLOAT))
    right = fn.coord_transform(video, M=CORRECTION.ravel().tolist(), dtype=types.UINT8)
    return right, share
