"""Arrays of a clip as text in a page: integers, their differences, deflated, in base64; page/codec.js reads them."""

import base64
import zlib
from typing import Any, Literal

import numpy as np

NOTHING = -32768  # code of a pixel without a value
_LEVEL = 6  # of zlib: 9 takes three times as long for two percent


def packed_bytes(values: np.ndarray) -> dict[str, Any]:
    """Packs bytes without loss. values: uint8 [T, ...]."""
    return _packed(np.ascontiguousarray(values), "u8", "none", 1.0)


def packed_numbers(values: np.ndarray, step: float, scale: Literal["linear", "log"]) -> dict[str, Any]:
    """Packs numbers as multiples of a step; those that are not finite, and in "log" those that are not positive, have
    no value.

    values: float [T, ...], time first.
    step: of the codes: an error of at most half of it, in "log" of the natural logarithm, so that it is relative.
    scale: what is a multiple of the step, the number or its logarithm.

    What lies outside of the codes' range is their first or last.
    """
    known = np.isfinite(values) & ((values > 0) | (scale == "linear"))
    numbers = np.where(known, values, 1.0).astype(np.float64)
    codes = np.rint((np.log(numbers) if scale == "log" else numbers) / step).clip(NOTHING + 1, 32767)
    return _packed(np.where(known, codes, NOTHING).astype(np.int16), "i16", scale, step)


def _packed(codes: np.ndarray, kind: str, scale: str, step: float) -> dict[str, Any]:
    """The smaller of the differences along time and along the rows of each frame."""
    frames = codes.reshape(len(codes), -1)
    along = {"time": np.diff(frames, axis=0, prepend=frames[:1] * 0), "row": np.diff(frames, prepend=frames[:, :1] * 0)}
    texts = {name: zlib.compress(_planes(found), _LEVEL) for name, found in along.items()}
    name = min(texts, key=lambda name: len(texts[name]))
    return {
        "type": kind, "shape": list(codes.shape), "along": name, "scale": scale, "step": step,
        "data": base64.b64encode(texts[name]).decode("ascii"),
    }  # fmt: skip


def _planes(codes: np.ndarray) -> bytes:
    """All low bytes, then all high bytes."""
    little = np.ascontiguousarray(codes).astype(codes.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(-1, codes.dtype.itemsize).T.tobytes()
