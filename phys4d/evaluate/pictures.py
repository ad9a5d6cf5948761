"""Frames into pictures that a single HTML file can carry: animations, filmstrips, legends, data addresses."""

import base64
import io

import numpy as np
from PIL import Image

from phys4d.evaluate.colours import flow_legend, table

FRAME_MS = 110
HOLD_MS = 500  # the last frame stays, so that the eye sees where a clip begins


def strip_frames(frames: int) -> list[int]:
    """Return the five frames of a filmstrip: 0, 4, 8, 12, 16 of 17; fewer when there are fewer."""
    return sorted({round(i * (frames - 1) / 4) for i in range(5)})


def hold_last(frames: np.ndarray) -> np.ndarray:
    """Append the last frame once more, [T-1, ...] -> [T, ...], so that motion runs in step with its video."""
    return np.concatenate([frames, frames[-1:]], axis=0)


def animation(frames: np.ndarray) -> bytes:
    """Encode uint8 [T, H, W, 3] as a looping lossless WebP: every pixel of every frame comes back exactly."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    durations = [FRAME_MS] * len(others) + [FRAME_MS + HOLD_MS]
    out = io.BytesIO()
    first.save(
        out, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, lossless=True, method=4
    )
    return out.getvalue()


def still(image: np.ndarray) -> bytes:
    """Encode one uint8 [H, W, 3 or 4] image as lossless WebP (`exact`: colour kept under transparency)."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", lossless=True, exact=True, method=4)
    return out.getvalue()


def filmstrip(frames: np.ndarray) -> np.ndarray:
    """Lay five frames of uint8 [T, H, W, 3] side by side: uint8 [H, 5 W, 3]."""
    return np.concatenate([frames[i] for i in strip_frames(len(frames))], axis=1)


def data_address(image: bytes) -> str:
    """Return WebP bytes as a data: address, for a page without a second file."""
    return "data:image/webp;base64," + base64.b64encode(image).decode("ascii")


def colour_bar(name: str) -> str:
    """Return the data address of the colour map `name`, one pixel high, low values left."""
    return data_address(still(table(name)[None]))


def wheel() -> str:
    """Return the data address of the flow colour wheel."""
    return data_address(still(flow_legend()))
