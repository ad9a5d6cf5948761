"""Videos of any model as frames of their truth's size and moments."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phys4d.engine.data.clip.schema import Size
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.data.tools.framing import Framing
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.table import Scored
from phys4d.importers.videos.container import frame_times
from phys4d.importers.videos.sampling import TOLERANCE, most_repeated, repeated, shown_frames

SAME_SHAPE = 0.02
"""Share by which aspect ratios of a video and its truth may differ: codecs and models round sides."""


class Fitted(NamedTuple):
    """frames: uint8 [T, H, W, 3] of the size of the truth. changed: what was done for it in words, "" for nothing."""

    frames: np.ndarray
    changed: str


def fitted_video(path: Path, size: Size, meta: Mapping[str, Any]) -> Fitted:
    """Reads a video as the frames that its truth has.

    A video of as many frames is taken frame by frame, whatever rate it states. Of another number, the frame that is
    shown at the moment of each true frame is taken, counted from its first one, and its end is cut. Frames of another
    size are resized (bicubic, filtered where they are reduced); the aspect ratio must be that of the truth.

    path: an mp4, webm or mov. size: (frames, height, width) of the truth. meta: json of the true clip, with `fps`.

    Raises UserError, in one line that names the file, for a video that cannot be read, is too short, shows fewer frames
    a second than its truth, or has another aspect ratio.
    """
    frames, height, width = size
    try:
        data = path.read_bytes()
        times = frame_times(data)
        picked, changed = _picked(times, frames, meta)
        last = picked[-1]
        shown = PyAVDecoder().decode(data, 0, last + 1)[picked]
        stored = shown.shape[1:3]
        if stored == (height, width):
            return Fitted(shown, changed)
        if abs(stored[0] * width / (stored[1] * height) - 1) > SAME_SHAPE:
            raise ValueError(
                f"is of {stored[0]} x {stored[1]} pixels, its truth of {height} x {width}: crop or pad it to this "
                "aspect ratio, so that it shows what the true first frame shows"
            )
        framing = Framing(stored, (height, width))
        sizes = f"{stored[0]} x {stored[1]} pixels resized to {height} x {width}"
        return Fitted(np.stack([framing.apply(frame) for frame in shown]), ", ".join(filter(None, (changed, sizes))))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {error}") from None


def say_fitted(row: str, clips: Sequence[tuple[Scored, str]], say: Callable[[str], None]) -> None:
    """Says in a line how many videos of a row were changed, and how the first of them was.

    row: its name. clips: each with `Fitted.changed` of its video. say: prints a line.
    """
    if changed := [f"{clip.key}: {change}" for clip, change in clips if change]:
        say(f"{row}: {len(changed)} of {len(clips)} videos fitted to their truth, the first of them {changed[0]}")


def _picked(times: list[Fraction], frames: int, meta: Mapping[str, Any]) -> tuple[list[int], str]:
    """Numbers of the frames that are taken, and what was done in words. ValueError where they do not suffice."""
    if len(times) == frames:
        return list(range(frames)), ""
    fps = meta.get("fps")
    if len(times) < 2 or not isinstance(fps, int | float) or fps <= 0:
        raise ValueError(f"holds {len(times)} frames, its truth {frames}: generate as many")
    rate = Fraction(fps).limit_denominator(1001)
    own = float((len(times) - 1) / (times[-1] - times[0])) if times[-1] > times[0] else 0.0
    shown = float(times[-1] - times[0]) + (1 / own if own else 0.0)
    if shown <= float((frames - 1) / rate + TOLERANCE):  # its last frame is gone when the last true one is shown
        raise ValueError(
            f"holds {len(times)} frames, {shown:.2f} s, its truth {frames} at {fps:g} a second: generate "
            f"{float(frames / rate):.2f} s"
        )
    picked = shown_frames(times, times[0], frames, rate)
    if repeated(picked) > most_repeated(frames):
        raise ValueError(
            f"shows {own:.4g} frames a second, its truth {fps:g}: repeated frames would count as standstill: simulate "
            "the truth at the rate of the video"
        )
    return picked, f"{frames} of {len(times)} frames at {fps:g} a second"
