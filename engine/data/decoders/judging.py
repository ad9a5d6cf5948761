"""What a failure of another decoder means: PyAV, the reference, decides whether the clip is bad."""

from phys4d.engine.data.decoders.interface import Request, Unservable
from phys4d.engine.data.decoders.pyav import PyAVDecoder


def judged(request: Request, name: str, reason: str) -> ValueError:
    """The error for a request on which a decoder failed: PyAV's, if PyAV fails too; otherwise `Unservable`.

    name, reason: of the decoder, and what it reported.
    """
    (frames,) = PyAVDecoder().decode_many([request])
    if isinstance(frames, ValueError):
        return frames
    return Unservable(f"{name} fails on it, and PyAV decodes it ({reason})")
