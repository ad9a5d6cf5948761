"""Which frames of a video make a clip: those that a player shows at equally spaced moments."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

TOLERANCE = Fraction(1, 1000)  # seconds: webm and mkv store whole milliseconds


def clip_starts(times: Sequence[Fraction], frames: int, fps: Fraction, every: Fraction | None) -> list[Fraction]:
    """Seconds at which clips begin: the first frame, and with `every` one more each so many seconds.

    times: when each frame of the video begins, in seconds, ascending. frames, fps: of a clip. The last
    moment of a clip is no later than the beginning of the last frame, so that no clip reaches beyond the video.
    """
    if not times:
        return []
    last = times[-1] + TOLERANCE - (frames - 1) / fps
    if every is None:
        return [times[0]] if times[0] <= last else []
    count = max(0, (last - times[0]) // every + 1)
    return [times[0] + k * every for k in range(count)]


def shown_frames(times: Sequence[Fraction], start: Fraction, frames: int, fps: Fraction) -> list[int]:
    """Index of the frame that is on the screen at each of the moments start + i / fps: the last that begins by then.

    times: when each frame of the video begins, in seconds, ascending; start: of the clip, in seconds; frames, fps: of
    the clip. A frame that begins up to a millisecond later counts too. Frames of a faster video are left out, those of
    a slower one are repeated; frames are never mixed.
    """
    return [bisect_right(times, start + i / fps + TOLERANCE) - 1 for i in range(frames)]


def repeated(indices: Sequence[int]) -> int:
    """How many frames of a clip show the same frame of the video as the one before."""
    return len(indices) - len(set(indices))


def most_repeated(frames: int) -> int:
    """How many repeated frames a clip of so many frames may have: one in twenty, at least one.

    A repeated frame says that nothing moved. A video at 23.976 frames a second, read at 24, repeats one in a thousand.
    """
    return max(1, frames // 20)
