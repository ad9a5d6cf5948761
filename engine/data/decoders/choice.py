"""Which decoder a run uses: the one named in its run file, or the best one for each clip."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch

from phys4d.engine.data.decoders import probe
from phys4d.engine.data.decoders.interface import Frames, Request, Unservable, VideoDecoder
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.errors import UserError, printable

DecoderName = Literal["auto", "pyav", "dali", "torchcodec"]


def _dali(device: torch.device) -> VideoDecoder:
    from phys4d.engine.data.decoders.dali import DaliDecoder

    return DaliDecoder(device)


def _torchcodec(device: torch.device) -> VideoDecoder:
    from phys4d.engine.data.decoders.torchcodec import TorchcodecDecoder

    return TorchcodecDecoder()


DECODERS: Mapping[str, Callable[[torch.device], VideoDecoder]] = {
    "pyav": lambda device: PyAVDecoder(),
    "dali": _dali,
    "torchcodec": _torchcodec,
}
"""How each decoder is made, for frames on a device or for the CPU."""
_MODULES = {"pyav": "av", "dali": "nvidia.dali", "torchcodec": "torchcodec.decoders"}
INSTALL = {
    "pyav": "pip install 'phys4d[train]'",
    "dali": "pip install 'phys4d[dali]'",
    "torchcodec": "pip install 'phys4d[torchcodec]', and FFmpeg's libraries",
}


def absence(name: str) -> str | None:
    """Why a decoder cannot be used here, and how to install it; None if it can. Imports it."""
    try:
        importlib.import_module(_MODULES[name])
    except ImportError as error:
        return f"{name} is not installed ({error}): {INSTALL[name]}"
    except (OSError, RuntimeError) as error:
        return f"{name} cannot be loaded ({str(error).strip().splitlines()[0]}): {INSTALL[name]}"
    return None


def choose(name: DecoderName, device: torch.device | str = "cpu") -> VideoDecoder:
    """The decoder of a run.

    name: "auto" takes DALI for the clips that it serves if the device is a GPU and DALI is installed, PyAV otherwise.
    device: where training uses the frames.

    Raises UserError with the command to install a named decoder that is absent.
    """
    device = torch.device(device)
    if name == "auto":
        if device.type == "cuda" and absence("dali") is None:
            return BestDecoder(_dali(device), PyAVDecoder())
        return PyAVDecoder()
    if (reason := absence(name)) is not None:
        raise UserError(f'decoder = "{name}": {reason}, or set "auto"')
    return DECODERS[name](device)


def explain(decoder: VideoDecoder, data: bytes) -> str:
    """Which decoder a clip gets, its version, what the clip is, and why another one is not used."""
    video = probe.probe(data)
    if isinstance(decoder, BestDecoder) and (reason := decoder.preferred.refusal(video)) is not None:
        reference = decoder.reference
        return f"{reference.name} {reference.version} ({video}); not {decoder.preferred.name}: {reason}"
    used = decoder.preferred if isinstance(decoder, BestDecoder) else decoder
    return f"{used.name} {used.version} ({video})"


class BestDecoder:
    """A preferred decoder, and the reference for the clips that it does not serve.

    Prints one line for each kind of reason that the reference is used.
    """

    name, version = "auto", ""

    def __init__(self, preferred: VideoDecoder, reference: VideoDecoder) -> None:
        self.preferred, self.reference = preferred, reference
        self.together = preferred.together
        self._printed: set[str] = set()

    def refusal(self, video: probe.Video) -> str | None:
        """Why neither serves a video, None if one does."""
        return self.reference.refusal(video) if self.preferred.refusal(video) is not None else None

    def decode_many(self, requests: Sequence[Request], *, normalised: bool = False) -> list[Frames | ValueError]:
        """See `VideoDecoder`."""
        done = self.preferred.decode_many(requests, normalised=normalised)
        left = [place for place, result in enumerate(done) if isinstance(result, Unservable)]
        for place in left:
            self._print(str(done[place]))
        again = self.reference.decode_many([requests[place] for place in left], normalised=normalised)
        for place, result in zip(left, again, strict=True):
            done[place] = result
        return done

    def _print(self, reason: str) -> None:
        kind = re.sub(r"\d+", "", reason)
        if kind not in self._printed:
            self._printed.add(kind)
            line = f"decoder: {self.reference.name} for clips that {self.preferred.name} does not serve: {reason}"
            print(printable(line), file=sys.stderr)
