"""A clip as one video for people: RGB, depth and motion side by side, each under its title."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phys4d.report.colours import flow, sequential
from phys4d.report.pictures import hold_last

_LINE, _GAP = 20, 4  # pixels: of a title, and between panels
_LEAST = 240  # rows of a panel; a smaller clip is enlarged by a whole number
_INK, _PAPER = (27, 31, 36), 255


def side_by_side(video: np.ndarray, depth: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """uint8 [T, h, w, 3], h and w even.

    Colours are those of the report: depth from its 2nd to its 98th percentile in the whole clip, motion up to its 98th.

    video: uint8 [T, H, W, 3]. depth: [T, H, W], metres. motion: [3, T-1, H, W], pixels; the last is repeated.
    """
    known = depth[np.isfinite(depth)]
    near, far = (float(q) for q in np.quantile(known, (0.02, 0.98))) if known.size else (0.0, 1.0)
    length = np.hypot(motion[0], motion[1])
    fast = max(float(np.nanquantile(length, 0.98)), 0.5)
    panels = {
        "RGB": video,
        f"depth, {near:.2f} to {far:.2f} m": sequential(depth, near, far, name="viridis"),
        f"motion, up to {fast:.1f} px a frame": hold_last(flow(motion, fast)),
    }
    by = max(1, -(-_LEAST // video.shape[1]))
    titled = [_titled(title, frames.repeat(by, 1).repeat(by, 2)) for title, frames in panels.items()]
    gap = np.full((*titled[0].shape[:2], _GAP, 3), _PAPER, np.uint8)
    joined = np.concatenate([titled[0], gap, titled[1], gap, titled[2]], axis=2)
    odd = [(0, 0), (0, joined.shape[1] % 2), (0, joined.shape[2] % 2), (0, 0)]
    return np.pad(joined, odd, constant_values=_PAPER)


def _titled(title: str, frames: np.ndarray) -> np.ndarray:
    strip = Image.new("RGB", (frames.shape[2], _LINE), (_PAPER,) * 3)
    ImageDraw.Draw(strip).text((2, 2), title, fill=_INK, font=ImageFont.load_default(13))
    line = np.broadcast_to(np.asarray(strip), (len(frames), _LINE, frames.shape[2], 3))
    return np.concatenate([line, frames], axis=1)
