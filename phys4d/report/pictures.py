"""Pictures inside one HTML file: legends of the colours, and a poster for each clip."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from phys4d.report.colours import flow_legend, table


def strip_frames(frames: int) -> list[int]:
    """Five frames of a clip: 0, 4, 8, 12, 16 of 17; fewer if there are fewer frames."""
    return sorted({round(i * (frames - 1) / 4) for i in range(5)})


def hold_last(frames: np.ndarray) -> np.ndarray:
    """Repeats the last frame, [T-1, ...] -> [T, ...], so that motion has as many frames as its video."""
    return np.concatenate([frames, frames[-1:]], axis=0)


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


def poster(frames: Sequence[np.ndarray], height: int = 72) -> str:
    """The data: URL of pictures side by side, small and lossy.

    frames: uint8 [H, W, 3] each, of one size. height: pixels of the poster.
    """
    width = max(1, round(height * frames[0].shape[1] / frames[0].shape[0]))
    strip = Image.new("RGB", (len(frames) * width, height))
    for i, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), (i * width, 0))
    out = io.BytesIO()
    strip.save(out, "WEBP", quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")
