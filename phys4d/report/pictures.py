"""Clips as pictures inside one HTML file: a lossless sheet of all frames, which CSS plays and cuts into filmstrips.

One sheet serves the looping clip and its filmstrip, is smaller than an animated WebP (frames share one palette and one
dictionary), and lets the page synchronise and pause all clips.
"""

import base64
import io
import math

import numpy as np
from PIL import Image

from phys4d.report.colours import flow_legend, table

FRAME_MS = 110
HOLD_MS = 500  # duration of the last frame, which marks the end of the loop


def strip_frames(frames: int) -> list[int]:
    """The five frames of a filmstrip: 0, 4, 8, 12, 16 of 17; fewer if there are fewer frames."""
    return sorted({round(i * (frames - 1) / 4) for i in range(5)})


def hold_last(frames: np.ndarray) -> np.ndarray:
    """Repeats the last frame, [T-1, ...] -> [T, ...], so that motion has as many frames as its video."""
    return np.concatenate([frames, frames[-1:]], axis=0)


def layout(frames: int) -> tuple[int, int]:
    """Columns and rows of a nearly square sheet of `frames` frames; WebP allows at most 16383 pixels along a side."""
    columns = math.ceil(math.sqrt(frames))
    return columns, math.ceil(frames / columns)


def sheet(frames: np.ndarray) -> np.ndarray:
    """Arranges frames uint8 [T, H, W, 3] in reading order: uint8 [rows H, columns W, 3]; unused tiles are black."""
    columns, rows = layout(len(frames))
    count, height, width, channels = frames.shape
    tiles = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    tiles[:count] = frames
    grid = tiles.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def clip_style(frames: int, height: int, width: int) -> str:
    """The CSS that plays a sheet (`.clip`) and cuts its filmstrip (`.strip i`), for clips of one size."""
    columns, rows = layout(frames)
    total = frames * FRAME_MS + HOLD_MS

    def position(frame: int) -> str:
        row, column = divmod(frame, columns)
        return f"{100 * column / max(columns - 1, 1):.6g}% {100 * row / max(rows - 1, 1):.6g}%"

    keys = " ".join(
        f"{100 * t * FRAME_MS / total:.6g}% {{ background-position: {position(t)}; }}" for t in range(frames)
    )
    cuts = "\n".join(
        f".strip i:nth-child({n}) {{ background-position: {position(t)}; }}"
        for n, t in enumerate(strip_frames(frames), 1)
    )
    size = f"{100 * columns}% {100 * rows}%"
    return (
        f"@keyframes play {{ {keys} }}\n{cuts}\n.clip {{ animation: play {total}ms step-end infinite; }}\n"
        f".clip, .strip i {{ aspect-ratio: {width} / {height}; background-image: var(--sheet); "
        f"background-size: {size}; }}"
    )


def address(image: np.ndarray) -> str:
    """A picture uint8 [H, W, 3 or 4] as the data: URL of a lossless WebP, so that the page is one file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", lossless=True, exact=True, quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def colour_bar(name: str) -> str:
    """The data: URL of the colour map `name`, one pixel high, low values left."""
    return address(table(name)[None])


def wheel() -> str:
    """The data: URL of the flow colour wheel."""
    return address(flow_legend())
