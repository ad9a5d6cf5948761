"""Several datasets as one sequence of clips: which of their clips take part, in which buckets, in which order."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from phys4d.caches.read import LatentCache
from phys4d.engine.data.clip.schema import AFFINE, REQUIRED, depth_kind
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.decoders.interface import VideoDecoder
from phys4d.engine.data.files import columns
from phys4d.engine.data.files.columns import TEXTS, check_where
from phys4d.engine.data.sampler import Order
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location

_BUCKET = ("frames", "height", "width", "fps")


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture.

    folder: of the dataset, local or behind a URL.
    weight: share of the drawn clips that come from it, beside the weights of the other parts; None: its number of
        clips, so that all clips are drawn equally often.
    where: column of its index -> values, of which a clip that takes part has one.
    cache: from which its latents and tokens are read.
    """

    folder: Location
    weight: float | None = None
    where: Mapping[str, Sequence[str | int | float]] = field(default_factory=dict)
    cache: LatentCache | None = None


class Bucket(NamedTuple):
    """What the clips of one batch have in common; fps in frames a second."""

    frames: int
    height: int
    width: int
    fps: float

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width} at {self.fps:g} fps"


class Mixture:
    """The clips of some datasets, by an index over all that take part, in the order of the parts.

    parts: the datasets, one or more; either all have a weight, or none has. Latents are read if all have a cache.
    arrays: names of the arrays that every clip must have.
    affine_depth: whether their depth may be disparity up to scale and shift.

    Attributes: datasets, of each part. buckets: those that there are, in ascending order. bucket: number of the bucket
    of each clip, int64 [clips]. affine: of each clip whether its depth is read and is such a disparity, bool [clips].

    UserError where a dataset cannot be read, no clip of it takes part, or its depth is of a kind that may not be.
    """

    def __init__(self, parts: Sequence[Part], arrays: Collection[str], *, affine_depth: bool = False) -> None:
        self.parts = tuple(parts)
        self.datasets = [ClipDataset(part.folder, arrays=arrays, required=REQUIRED) for part in parts]
        self.name = ", ".join(str(part.folder) for part in parts)
        self.cached = all(part.cache is not None for part in parts)
        taking_part = [chosen(dataset, part.where) for dataset, part in zip(self.datasets, parts, strict=True)]
        self._own = np.concatenate(taking_part)  # index of each clip in its dataset
        self._part = np.repeat(np.arange(len(parts)), [len(some) for some in taking_part])
        both = list(zip(self.datasets, taking_part, strict=True))
        self._reads_depth = "depth" in arrays
        self.affine = np.zeros(len(self._own), bool)
        if self._reads_depth:
            self.affine = np.concatenate([affine_clips(dataset)[some] for dataset, some in both])
            for dataset, some in both if not affine_depth else ():
                expect_metric(dataset, some)
        rows = [row for dataset, some in both for row in _buckets(dataset, some)]
        self.buckets = sorted(set(rows))
        number = {bucket: i for i, bucket in enumerate(self.buckets)}
        self.bucket = np.array([number[row] for row in rows], np.int64)
        self._alike = [np.flatnonzero(self.bucket == i) for i in range(len(self.buckets))]

    def __len__(self) -> int:
        return len(self._own)

    def order(self, seed: int) -> Order:
        """The order in which clips are drawn: one pool of all clips, or with weights one of each part."""
        if any(part.weight is None for part in self.parts):
            return Order(seed, self.bucket)
        return Order(seed, self.bucket, self._part, [part.weight or 0.0 for part in self.parts])

    def alike(self, index: int) -> np.ndarray:
        """The clips in the bucket of a clip, int64."""
        return self._alike[self.bucket[index]]

    def place(self, index: int) -> tuple[ClipDataset, int]:
        """The dataset of a clip, and its index in it."""
        return self.datasets[self._part[index]], int(self._own[index])

    def read(self, index: int, *, pixels: bool) -> Sample:
        """A clip; where latents are read an `EncodedSample`, whose video is there if `pixels` is set. As
        `ClipDataset.read`, whose errors it raises."""
        dataset, own = self.place(index)
        sample = dataset.read(own, video=pixels or not self.cached)
        if self._reads_depth and (depth_kind(sample.meta) == AFFINE) != self.affine[index]:
            what = f"clip {sample.key}: json depth_kind: is {depth_kind(sample.meta)}, the index says another"
            raise ClipFault(dataset.folder, sample.key, what, "write this dataset again")
        cache = self.parts[self._part[index]].cache
        return sample if cache is None or not self.cached else cache.read(own, sample)

    def decode_by(self, decoder: VideoDecoder) -> None:
        """Sets the decoder of the videos."""
        for dataset in self.datasets:
            dataset.decoder = decoder

    def counts(self) -> dict[Bucket, int]:
        """The number of clips in each bucket."""
        return dict(Counter(self.buckets[i] for i in self.bucket.tolist()))


def chosen(dataset: ClipDataset, where: Mapping[str, Sequence[str | int | float]]) -> np.ndarray:
    """Indices of the clips that have one of the values in each of the columns. UserError if there is none."""
    if not len(dataset):
        raise UserError(f"{dataset.folder}: holds no clips: simulate or label some first")
    if not where:
        return np.arange(len(dataset))
    try:
        check_where(where)
        texts = dataset.texts([name for name in where if name in TEXTS])
        numbers = {name: dataset.column(name) for name in where if name not in TEXTS}
        table = pa.table({name: texts.column(name) for name in texts.column_names} | numbers)
        return np.flatnonzero(columns.chosen(table, where).to_numpy())
    except ValueError as error:
        raise UserError(f"{dataset.folder}: {error}") from None


def affine_clips(dataset: ClipDataset) -> np.ndarray:
    """Of each clip whether its index says that its depth is disparity up to scale and shift, bool [clips]."""
    return np.array(dataset.column("depth_kind").to_pylist()) == AFFINE


def expect_metric(dataset: ClipDataset, some: np.ndarray) -> None:
    """UserError that names the first of these clips, int64 indices, whose depth is not in metres."""
    if (affine := some[affine_clips(dataset)[some]]).size:
        key = dataset.row(int(affine[0]))["key"]
        raise UserError(
            f"{dataset.folder}: clip {key}: its depth is {AFFINE}, up to scale and shift, and metres are needed here: "
            "only pretrain learns from it: label these videos with a metric teacher"
        )


def _buckets(dataset: ClipDataset, some: np.ndarray) -> list[Bucket]:
    sizes = [dataset.column(name).take(pa.array(some)).to_pylist() for name in _BUCKET]
    return [Bucket(*row) for row in zip(*sizes, strict=True)]
