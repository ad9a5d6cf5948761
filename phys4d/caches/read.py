"""Reads a cache: whether it is one of these clips and this model, and the latents and tokens of a clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from phys4d.caches.card import CacheCard, read_card
from phys4d.caches.packing import LATENTS, NO_CAPTION, TEXT, unpacked
from phys4d.engine import json_text
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample, clip_size
from phys4d.engine.data.files.index import read_index
from phys4d.engine.errors import UserError
from phys4d.engine.limits import MIB

SOURCE = "source"
"""Column of a cache's index: 32 hexadecimal digits of the SHA-256 of a clip's mp4, and 32 of its json's."""
_HALF = 32
_NO_CAPTION_BYTES = 64 * MIB


@dataclass(frozen=True)
class EncodedSample(Sample):
    """A clip with what a cache holds of it. latents: [C, T', H', W']; text: tokens [n, D]; fp32 or bf16, on the CPU."""

    latents: Tensor
    text: Tensor

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.latents.nbytes + self.text.nbytes


class Stale(UserError):
    """A cache that is of other clips or another model; `brief` is the message without the advice."""

    def __init__(self, folder: Path, brief: str, advice: str) -> None:
        super().__init__(f"{folder}: {brief}: remove it, and {advice} writes another")
        self.brief = brief


def sources(dataset: ClipDataset) -> pa.Array:
    """The column `SOURCE` for every clip of a dataset."""
    halves = [pc.utf8_slice_codeunits(dataset.digests(name), 0, _HALF) for name in ("mp4", "json")]
    return pc.binary_join_element_wise(*halves, "")


class LatentCache:
    """The latents and tokens of a dataset's clips, as `phys4d data encode` wrote them.

    One object may be used by many threads, as a `ClipDataset`.

    folder: of the cache. data: the dataset. kind, origin: of the model that reads it (`models.spec.Encoders`); parts
        that `origin` lacks are not compared. advice: the command that writes such a cache, for the messages.

    Raises Stale, a UserError that says what differs, unless it was computed from these clips by these encoders;
    UserError where it is damaged.
    """

    def __init__(self, folder: Path, data: ClipDataset, kind: str, origin: Mapping[str, str], advice: str) -> None:
        self.folder, self.card = Path(folder), read_card(Path(folder))
        self._data, self._advice = data, advice
        self._check_model(kind, origin)
        self._place = self._placed()
        self._entries = ClipDataset(self.folder, arrays=())

    def _stale(self, brief: str) -> Stale:
        return Stale(self.folder, brief, self._advice)

    def _check_model(self, kind: str, origin: Mapping[str, str]) -> None:
        if self.card.kind != kind:
            raise self._stale(f'is of a model of kind "{self.card.kind}", this one is "{kind}"')
        for part, digest in self.card.origin.items():
            if origin.get(part, digest) != digest:
                raise self._stale(f"was computed by another {part} ({digest}; this model's: {origin[part]})")

    def _placed(self) -> np.ndarray:
        """int64 [clips]: the row of each clip of the dataset, -1 for one that could not be encoded.

        A cache is of all clips of a dataset; of one whose clips are chosen (`where`), it is compared with all of them.
        """
        kept, table, bad = self._data.kept, read_index(self.folder, (SOURCE,)), self.card.bad
        data = self._data if kept is None else ClipDataset(self._data.folder, arrays=())
        if self.card.latents.keys() != (sizes := data.sizes()).keys():
            held, here = (", ".join("x".join(map(str, size)) for size in some) for some in (self.card.latents, sizes))
            raise self._stale(f"is of clips of {held}, those of {data.folder} are {here}")
        keys, source = data.keys(), sources(data)
        there = pc.invert(pc.is_in(keys, pa.array(list(bad), pa.string())))
        self._compare(keys.filter(there), source.filter(there), table, len(data))
        for index in np.flatnonzero(~there.to_numpy(zero_copy_only=False)) if bad else ():
            if bad[keys[index].as_py()].source != source[index].as_py():
                raise self._stale(f"could not encode clip {keys[index].as_py()}, which has changed since")
        inside = there.to_numpy(zero_copy_only=False)
        place = np.where(inside, np.cumsum(inside) - 1, -1)
        return place if kept is None else place[kept.to_numpy()]

    def _compare(self, keys: pa.Array, source: pa.Array, table: pa.Table, count: int) -> None:
        name, own = self._data.folder, table.column("key").combine_chunks()
        if len(keys) != len(own):
            raise self._stale(f"is of {len(own) + len(self.card.bad)} clips, {name} holds {count}")
        if (index := pc.index(pc.equal(keys, own), False).as_py()) >= 0:
            raise self._stale(f"has clip {own[index].as_py()} where {name} has {keys[index].as_py()}")
        column = table.column(SOURCE).combine_chunks()
        if (index := pc.index(pc.equal(source, column), False).as_py()) >= 0:
            was, now = column[index].as_py(), source[index].as_py()
            member = "mp4" if was[:_HALF] != now[:_HALF] else "json"
            raise self._stale(f"clip {keys[index].as_py()} of {name} has changed since: another {member}")

    def read(self, index: int, sample: Sample) -> EncodedSample:
        """A clip of the dataset with its latents and tokens.

        index: of the clip in the dataset. sample: the clip, possibly without video.

        Raises ClipFault if the cache has none of it, or they are damaged.
        """
        if self._place[index] < 0:
            raise ClipFault(self._data.folder, sample.key, self.card.bad[sample.key].fault)
        row = self._entries.row(int(self._place[index]))
        encoded = {name: read_tensor(self._entries, row, name, self.card) for name in (LATENTS, TEXT)}
        return EncodedSample(sample.key, sample.video, sample.arrays, sample.meta, **encoded)


    def no_caption(self) -> Tensor | None:
        """Tokens [n, D] of an empty caption, None in a cache of an earlier version. UserError if they are damaged."""
        return read_no_caption(self.folder, self.card)


def read_no_caption(folder: Path, card: CacheCard) -> Tensor | None:
    """`LatentCache.no_caption` of a cache. folder: of it, whose files were compared with their digests. card: of it."""
    path = folder / NO_CAPTION
    if not path.is_file():
        return None
    try:
        tensor = unpacked(TEXT, json_text.read(path, most=_NO_CAPTION_BYTES))
        _check_shape(TEXT, tuple(tensor.shape), card, (0, 0, 0))
    except ValueError as error:
        raise UserError(f"{path}: {error}: write the cache again") from None
    return tensor


def read_tensor(entries: ClipDataset, row: dict[str, Any], name: str, card: CacheCard) -> Tensor:
    """One member of a clip of a cache.

    entries: the cache's index and shards. row: of the clip. name: of the member. card: of the cache.

    Raises ClipFault if it is damaged, or not as the card says.
    """
    data = entries.member(row, name)
    try:
        tensor = unpacked(name, data)
        _check_shape(name, tuple(tensor.shape), card, clip_size(row))
        return tensor
    except ValueError as error:
        raise ClipFault(entries.folder, row["key"], f"{row['shard']}: clip {row['key']}: {name} {error}") from None


def _check_shape(name: str, shape: tuple[int, ...], card: CacheCard, size: tuple[int, int, int]) -> None:
    """Raises ValueError for another shape than that in the card for clips of this size, or more tokens."""
    tokens = min(shape[0] if shape else 0, card.text[0]), card.text[1]
    expected = card.latents.get(size, ()) if name == LATENTS else tokens
    if shape != expected:
        raise ValueError(f"is {list(shape)}, expected {list(expected)}")
