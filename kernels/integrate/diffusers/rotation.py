"""The angles that a diffusers model hands to its processors, as tables that `norm_rope` reads."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import TensorWeakRef

from phys4d.kernels.elementwise import Rope
from phys4d.kernels.elementwise.rope import Layout
from phys4d.kernels.integrate.diffusers.bypass import PLAIN, Known, not_plain


class _Kept(NamedTuple):
    cosine: TensorWeakRef
    sine: TensorWeakRef
    version: tuple[Any, ...]
    value: Any


def _recording(tensor: Tensor) -> bool:
    """Whether operations are being recorded, for torch.compile or a CUDA graph."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _must_not_be_kept(cosine: Tensor, sine: Tensor) -> bool:
    """Whether a table made now must not be kept: it belongs into what is being recorded, or it would be a tensor of
    inference mode, which no backward pass can save and whose changes are not counted."""
    if _recording(cosine):
        return True  # first: torch.compile cannot trace the checks below
    return (
        type(cosine) is FakeTensor or torch.is_inference_mode_enabled() or cosine.is_inference() or sine.is_inference()
    )


def _make(cosine: Tensor, sine: Tensor, device: torch.device, layout: Layout) -> Rope:
    pairs = torch.stack((_channels(cosine, layout)[0], _channels(sine, layout)[1]), dim=-1)
    pairs = pairs.to(device, torch.promote_types(pairs.dtype, torch.float32))
    none = pairs.new_empty(1, 0, 2)
    return Rope((pairs, none, none), layout)


def _channels(table: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The first and the second channel of each pair, both [S, D/2]."""
    rows = table.reshape(-1, table.shape[-1])
    if layout == "half":
        first, second = rows.chunk(2, dim=-1)
        return first, second
    return rows[:, 0::2], rows[:, 1::2]


def _equal_pairs(layout: Layout, *tables: Tensor) -> Tensor:
    return torch.stack([torch.eq(*_channels(table, layout)).all() for table in tables]).all()


class Rotation:
    """The rotation of one transformer's tokens: a table per token, made once per forward pass for all blocks.

    The video is laid out as one axis, grid (S, 1, 1), whose table holds the model's own numbers: exact for whatever
    the model does with its three axes (crops, scaling, a part of the sequence), with nothing to recover and no grid to
    know. It costs 4 * D bytes of reading per token beside the 4 * heads * D that queries or keys move in bfloat16.

    `norm_rope` reads the first cosine and the second sine of every pair of channels. A model that multiplies channel
    by channel computes the same only if both angles of a pair are equal: the host checks that for each new pair of
    tables, which waits for the device; while operations are recorded an assertion on the device does.

    Args:
        reads_apart: the model itself reads the first cosine and the second sine; nothing is checked.
        transformer, maker: nothing is checked either while `transformer.rope` is plainly one of the known classes
            `maker`, whose tables have equal angles.
    """

    def __init__(
        self, *, reads_apart: bool = False, transformer: nn.Module | None = None, maker: Known | None = None,
        layout: Layout = "interleaved",
    ) -> None:  # fmt: skip
        self._layout = layout
        self._reads_apart, self._transformer, self._maker = reads_apart, transformer, maker
        self._table: _Kept | None = None
        self._paired: _Kept | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None, "_paired": None}  # weak references can neither be pickled nor copied

    def table(self, embedding: Any, count: int, device: torch.device) -> Rope | str:
        """The table of (cosine, sine), both [S, D] or [1, S, 1, D], for `count` video tokens on `device`; or why these
        angles are the model's own to apply. The grid is (count, 1, 1)."""
        pair = isinstance(embedding, tuple | list) and len(embedding) == 2
        if not pair or not all(type(t) in PLAIN and t.is_floating_point() and not t.is_meta for t in embedding):
            return "a rotation that is not given as cosines and sines"
        cosine, sine = embedding
        if cosine.shape != sine.shape or cosine.shape[-1] % 2 or cosine.numel() != count * cosine.shape[-1]:
            return "a rotation that is not one angle per pair of channels for every video token"
        if cosine.requires_grad or sine.requires_grad:
            return "a rotation that is learned"
        if not self._reads_apart and not self._are_paired(cosine, sine):
            return "a rotation with two angles in a pair of channels"
        if _must_not_be_kept(cosine, sine):
            return _make(cosine, sine, device, self._layout)
        version = cosine._version, sine._version, device
        if not _holds(self._table, cosine, sine, version):
            made = _make(cosine, sine, device, self._layout)
            self._table = _Kept(TensorWeakRef(cosine), TensorWeakRef(sine), version, made)
        assert self._table is not None
        return self._table.value  # type: ignore[no-any-return]

    def _are_paired(self, cosine: Tensor, sine: Tensor) -> bool:
        rope = getattr(self._transformer, "rope", None)
        if self._maker is not None and not_plain(rope, self._maker) is None:
            return True
        if _recording(cosine):
            equal = _equal_pairs(self._layout, cosine, sine)
            torch._assert_async(equal, "a rotation with two angles in a pair of channels")
            return True
        if type(cosine) is FakeTensor:
            return True
        counted = not (cosine.is_inference() or sine.is_inference())  # others do not count their changes
        version = (cosine._version, sine._version) if counted else (cosine.data_ptr(), sine.data_ptr())
        if not _holds(self._paired, cosine, sine, version):
            paired = bool(_equal_pairs(self._layout, cosine, sine))
            self._paired = _Kept(TensorWeakRef(cosine), TensorWeakRef(sine), version, paired)
        assert self._paired is not None
        return bool(self._paired.value)


def _holds(kept: _Kept | None, cosine: Tensor, sine: Tensor, version: tuple[Any, ...]) -> bool:
    """Whether what is kept belongs to these tensors as they are."""
    return kept is not None and kept.version == version and kept.cosine() is cosine and kept.sine() is sine
