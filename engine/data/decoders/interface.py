"""What a video decoder takes and returns, whichever library it uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Union

import numpy as np

from phys4d.engine.limits import VIDEO_BYTES

if TYPE_CHECKING:
    import torch

    from phys4d.engine.data.decoders.probe import Video

Frames = Union[np.ndarray, "torch.Tensor"]
"""A tensor from a decoder on a GPU, an array from any other. RGB uint8 [T, H, W, 3], or normalised: fp32 [3, T, H, W]
in [-1, 1]."""


class Unservable(ValueError):
    """A sound video that this decoder does not decode correctly, or not at all; another decoder may."""


@dataclass(frozen=True)
class Request:
    """Frames of one encoded clip.

    data: the file. count: number of frames. start: index of the first one among the frames that a player shows.
    stride: 1 for consecutive frames, 2 for every second one, and so on.
    stored: (height, width) of the shown frames in the dataset's index, None if it is not known; a video of another size
        is refused before a frame is decoded.
    size: (height, width) of the returned frames: the largest centred part of that aspect ratio, resized by a triangle
        filter; None: as they are shown.
    """

    data: bytes
    count: int
    start: int = 0
    stride: int = 1
    stored: tuple[int, int] | None = None
    size: tuple[int, int] | None = None

    def picked(self, times: Sequence[int]) -> list[int]:
        """Of the times of all shown frames, those of this request. ValueError if the video is too short."""
        last = self.start + (self.count - 1) * self.stride
        if self.start < 0 or self.count < 1 or self.stride < 1 or last >= len(times):
            every = f", every {self.stride}th" if self.stride != 1 else ""
            raise ValueError(f"holds {len(times)} frames, expected frames {self.start}..{last}{every}")
        return list(times[self.start : last + 1 : self.stride])

    def check_bytes(self, shown: tuple[int, int]) -> None:
        """Raises ValueError if its frames, (height, width) as they are shown, exceed `engine.limits.VIDEO_BYTES`."""
        if (need := 3 * shown[0] * shown[1] * self.count) > VIDEO_BYTES:
            raise ValueError(f"would take {need} bytes as RGB, at most {VIDEO_BYTES} are decoded at a time")


class VideoDecoder(Protocol):
    """Decodes clips. It may be used by many threads, and pickled.

    name: in a run file. version: of the library. together: clips that are best decoded at the same time.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def together(self) -> int: ...

    def refusal(self, video: "Video") -> str | None:
        """Why this decoder does not serve a video, None if it does; without decoding."""
        ...

    def decode_many(self, requests: Sequence[Request], *, normalised: bool = False) -> list[Frames | ValueError]:
        """The frames of each request, in order, or what is wrong with its clip.

        requests: any number. normalised: as fp32 [3, T, H, W] in [-1, 1] (level / 127.5 - 1).

        An error is `Unservable` if the clip is sound and this decoder does not serve it. The number of frames and their
        size are always those of the request. Raises MemoryError if the machine lacks memory.
        """
        ...


def decode(decoder: VideoDecoder, request: Request, *, normalised: bool = False) -> Any:
    """The frames of one request. Raises ValueError if the clip is bad, `Unservable` if it is sound and not served."""
    (frames,) = decoder.decode_many([request], normalised=normalised)
    if isinstance(frames, ValueError):
        raise frames
    return frames
