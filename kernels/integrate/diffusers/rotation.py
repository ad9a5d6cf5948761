"""The angles that a diffusers model hands to its processors, as tables that `norm_rope` reads."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from phys4d.kernels.elementwise import Rope
from phys4d.kernels.elementwise.rope import Grid


class _Made(NamedTuple):
    cosine: TensorWeakRef
    sine: TensorWeakRef
    versions: tuple[int, int, torch.device]
    rope: Rope


def _recording(tensor: Tensor) -> bool:
    """Whether operations are being recorded, for torch.compile or a CUDA graph."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _must_not_be_kept(cosine: Tensor, sine: Tensor) -> bool:
    """Whether a table made now must not be kept: it belongs into what is being recorded, or it would be a tensor of
    inference mode, which no backward pass can save and whose changes are not counted."""
    if _recording(cosine):
        return True  # first: torch.compile cannot trace the checks below
    return torch.is_inference_mode_enabled() or cosine.is_inference() or sine.is_inference()


def _make(cosine: Tensor, sine: Tensor, device: torch.device) -> Rope:
    channels = cosine.shape[-1]
    pairs = torch.stack((cosine.reshape(-1, channels)[:, 0::2], sine.reshape(-1, channels)[:, 1::2]), dim=-1)
    pairs = pairs.to(device, torch.promote_types(pairs.dtype, torch.float32))
    none = pairs.new_empty(1, 0, 2)
    return Rope((pairs, none, none))


class Rotation:
    """The rotation of one transformer's tokens: a table per token, made once per forward pass for all blocks.

    The video is laid out as one axis, grid (S, 1, 1), whose table holds the model's own numbers: exact for whatever
    the model does with its three axes (crops, scaling, a part of the sequence), with nothing to recover and no grid to
    know. It costs 4 * D bytes of reading per token beside the 4 * heads * D that queries or keys move in bfloat16.

    Models that multiply channel by channel give every pair its angle twice. The host checks that once, at the first
    table that is made in eager mode from real numbers; `norm_rope` reads the first cosine and the second sine.
    """

    def __init__(self) -> None:
        self._made: _Made | None = None
        self._paired: bool | None = None

    def refusal(self, embedding: Any, count: int) -> str | None:
        """Why these angles of `count` video tokens are the model's own to apply; None if `rope` can."""
        pair = isinstance(embedding, tuple | list) and len(embedding) == 2
        if not pair or not all(isinstance(t, Tensor) and t.is_floating_point() for t in embedding):
            return "a rotation that is not given as cosines and sines"
        cosine, sine = embedding
        if cosine.shape != sine.shape or cosine.shape[-1] % 2 or cosine.numel() != count * cosine.shape[-1]:
            return "a rotation that is not one angle per pair of channels for every video token"
        if cosine.requires_grad or sine.requires_grad:
            return "a rotation that is learned"
        if self._paired is None and not (_recording(cosine) or cosine.is_meta):
            self._paired = all(torch.equal(t[..., 0::2], t[..., 1::2]) for t in embedding)
        return "a rotation with two angles in a pair of channels" if self._paired is False else None

    def rope(self, embedding: Any, device: torch.device) -> tuple[Rope, Grid]:
        """Table and grid of (cosine, sine), both [S, D] or [1, S, 1, D], for tokens on `device`."""
        cosine, sine = embedding
        grid = (cosine.numel() // cosine.shape[-1], 1, 1)
        if _must_not_be_kept(cosine, sine):
            return _make(cosine, sine, device), grid
        versions = cosine._version, sine._version, device
        made = self._made
        if made is None or made.versions != versions or made.cosine() is not cosine or made.sine() is not sine:
            made = _Made(TensorWeakRef(cosine), TensorWeakRef(sine), versions, _make(cosine, sine, device))
            self._made = made
        return made.rope, grid
