"""Videos as OpenCV decodes them, and masks of what moves in them, as the public program makes them.

Source: physiq/binary_mask_generator.py of github.com/google-deepmind/physics-IQ-benchmark. The same functions of OpenCV
in the same order give the same masks to the bit; the lossy codec through which they go is part of the definition
(without it, intersections over unions move by up to 0.033).
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from phys4d.engine.errors import UserError
from phys4d.evaluate.physics_iq.layout import SECONDS

THRESHOLD = 10  # least difference to the running mean, of 255
_RATE = 0.3  # of the running mean
_KERNEL = np.ones((5, 5), np.uint8)


@contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """The decoder of a video; UserError where there is none."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"{path}: OpenCV cannot read it as a video")
        yield capture
    finally:
        capture.release()


@dataclass(frozen=True)
class Length:
    """How long a video has to be: five seconds after the first frame.

    fps: frames a second. generated: a video of a model may be up to a quarter of a second longer, and is cut; a real
    one may not.
    """

    fps: int
    generated: bool

    def check(self, path: Path, capture: cv2.VideoCapture) -> int:
        """Frames too many in an opened video, 0 where the length is right; UserError where its container states too
        few, or too many."""
        wanted, found = SECONDS * self.fps, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        most = wanted + self.fps // 4 if self.generated else wanted
        if not wanted <= found <= most:
            raise UserError(
                f"{path}: {found} frames at {self.fps} a second: expected {wanted}, the {SECONDS} seconds after the "
                "first frame"
            )
        return found - wanted


def frames(path: Path, length: Length | None = None) -> Iterator[np.ndarray]:
    """Its frames in turn: uint8 [H, W, 3], BGR; UserError before the first one where it has not the length."""
    with opened(path) as capture:
        if length is not None:
            length.check(path, capture)
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield frame


def frame_rate(path: Path) -> int:
    """Frames a second; UserError where that is no whole number, for which the benchmark has no real videos."""
    with opened(path) as capture:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    if not rate.is_integer() or rate < 1:
        raise UserError(f"{path}: {rate:g} frames a second: expected a whole number, such as 24")
    return int(rate)


def check_length(path: Path, length: Length) -> int:
    """Frames too many, as of `Length.check`."""
    with opened(path) as capture:
        return length.check(path, capture)


def motion_masks(video: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """For each frame of a video, uint8 [H, W]: 255 where it differs from the running mean of the frames so far.

    The running mean takes 30 % of each frame, and takes it before the difference; the first mask is empty.
    """
    mean: np.ndarray | None = None
    for frame in video:
        grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (5, 5), 0)
        if mean is None:
            mean = grey.astype(np.float64)
            yield np.zeros_like(grey)
            continue
        cv2.accumulateWeighted(grey, mean, _RATE)
        difference = cv2.absdiff(grey, cv2.convertScaleAbs(mean))
        mask = cv2.threshold(difference, THRESHOLD, 255, cv2.THRESH_BINARY)[1]
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _KERNEL)
        yield cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _KERNEL)


@contextmanager
def mask_video(
    path: Path, video: Iterable[np.ndarray], fps: int, seen: Callable[[np.ndarray], object]
) -> Iterator[Path]:
    """The masks of a video through MPEG-4, in a file that is gone afterwards. An odd side loses its last pixels.

    path, video: of the video, its frames. fps: frames a second of the masks. seen: is given every frame, so that none
    is decoded twice.
    """

    def shown() -> Iterator[np.ndarray]:
        for frame in video:
            seen(frame)
            yield frame

    with tempfile.TemporaryDirectory(prefix="phys4d-masks-") as folder:
        file, writer = Path(folder) / "masks.mp4", None
        for mask in motion_masks(shown()):
            if writer is None:
                height, width = mask.shape
                size = (width - width % 2, height - height % 2)
                writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), fps, size, isColor=False)
                if not writer.isOpened():
                    raise UserError(f"{path}: OpenCV cannot write masks of {size[0]}x{size[1]} as MPEG-4 to {folder}")
            writer.write(mask)
        if writer is None:
            raise UserError(f"{path}: has no frame")
        writer.release()
        yield file
