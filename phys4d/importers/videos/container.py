"""What a video file says of itself before its frames are used: that it is whole, when each frame is shown, its size.

FFmpeg goes on after damage and fills what it cannot decode with copies or grey. Such frames are refused here.
"""

from fractions import Fraction

from phys4d.engine.data.decoders.probe import ffmpeg_errors, is_shown, limit_frames, opened

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # those that an mp4 or mov may begin with
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of webm and mkv


def frame_times(data: bytes) -> list[Fraction]:
    """Seconds at which the frames that a player shows begin, ascending; the indices are those of `PyAVDecoder`.

    Raises ValueError for data that is cut off or holds no video.
    """
    if is_cut_off(data):
        raise ValueError("is cut off: the file ends before its own header says")
    with ffmpeg_errors(), opened(data) as container:
        if not container.streams.video:
            raise ValueError("holds no video stream")
        stream = container.streams.video[0]
        packets = container.demux(stream)
        stamps = sorted(p.pts for p in packets if is_shown(p) and p.pts is not None)
        base = stream.time_base
    if base is None:
        raise ValueError("does not say when its frames are shown")
    return [stamp * base for stamp in stamps]


def check_frames(data: bytes, last: Fraction) -> tuple[int, int]:
    """Decodes all frames up to the one shown at `last` seconds and returns the stored (height, width).

    Raises ValueError at the first frame that is damaged.
    """
    size = (0, 0)
    with ffmpeg_errors(), opened(data) as container:
        stream = container.streams.video[0]
        limit_frames(stream)
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                continue
            at = frame.pts * frame.time_base
            if frame.is_corrupt:
                raise ValueError(f"is damaged at {float(at):.2f} s")
            size = (frame.height, frame.width)
            if at >= last:
                break
    return size


def is_cut_off(data: bytes) -> bool:
    """Whether a part that the file announces reaches beyond its end. False for kinds of files other than VIDEOS."""
    if data[:4] == _EBML:
        return _segment_is_cut_off(data)
    at = 0
    while data[at + 4 : at + 8] in _BOXES or (at and len(data) - at >= 8):
        size = int.from_bytes(data[at : at + 4])
        if size == 1:  # the size follows in 64 bits
            size = int.from_bytes(data[at + 8 : at + 16])
        if size < 8 or not data[at + 4 : at + 8].isascii():  # 0: to the end of the file; anything else is no box
            return False
        at += size
    return at > len(data)


def _segment_is_cut_off(data: bytes) -> bool:
    """The same for webm and mkv: a header and one segment, each an identifier, a size and that many bytes."""
    header, at = _number(data, 4)
    at += header
    if data[at : at + 4] != _SEGMENT:
        return at + 4 > len(data)
    size, start = _number(data, at + 4)
    unknown = size == (1 << 7 * (start - at - 4)) - 1  # a live recording
    return not unknown and start + size > len(data)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of EBML, which says its own length by its leading zero bits, and where it ends."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8:
        return 0, at
    return int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1), at + length
