"""Batches of clips for a stage: which clips a step sees, read ahead of it, in memory once decoded, as tensors."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from phys4d.bad_clips import MOST_BAD, Place, Read, Replacing, Skips
from phys4d.batch import Batch
from phys4d.caches.captions import EncodedCaptions, NoCaption
from phys4d.caches.packing import stacked
from phys4d.caches.read import LatentCache
from phys4d.engine.data.clip.schema import AFFINE, depth_kind
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.decoders.interface import VideoDecoder
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.data.sampler import Course
from phys4d.engine.data.stream import Late, stream
from phys4d.engine.data.transfer import Copied, Transfer
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import Stuck, UserError
from phys4d.engine.location import Location
from phys4d.engine.training.telemetry import Wait
from phys4d.host_batch import ARRAY, INTRINSICS, LATENTS, TEXT, VIDEO, on_host
from phys4d.mixture import Bucket, Mixture, Part
from phys4d.models.interface import Grid, TextEncoder, check_size, from_bytes

TRUTH = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid", "visible", "moving")
_AHEAD = 2  # batches: one late read keeps no step waiting
PSEUDO = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid")


class _Loaded(NamedTuple):
    """A batch that is read: its clips, and their tensors (`on_host`) on their way to the device."""

    reads: list[Read]
    copied: Copied


def clip_size(folder: Path) -> tuple[int, int, int]:
    """(frames, height, width) of a dataset's clips; UserError where it is empty or holds several sizes."""
    return ClipDataset(folder, arrays=()).size()


class Clips:
    """Datasets as an endless, ordered source of batches.

    The clips of the next two steps are read while a step runs. All clips of a batch have one size.

    data: folder of a dataset, or the parts of a mixture.
    arrays: names of the arrays that every clip must have.
    text: encodes the captions.
    grid: of the model, which must take the clips' sizes; None: any size.
    cache_bytes: decoded clips that stay in memory, per rank; none if all of them, as large as the first, have no room.
    text_bytes: encoded captions that stay on the text encoder's device, per rank.
    encoded: cache of the dataset in `data`; in a mixture each part has its own. Latents and tokens are read from caches
        instead of being computed if every part has one; `text` is then not called.
    on_bad: whether a clip that cannot be used stops the run or is replaced by one of its size, chosen by seed, stage,
        step and place in the global batch only.
    max_bad: the run ends if more clips are bad (`bad_clips.most_bad`).
    affine_depth: as of `Mixture`.

    Attributes: `skips` holds the clips that were replaced. `affine` is whether the depth of any clip is disparity up to
    scale and shift. `latest` holds the names of the latest batch of this rank (keys, with their folder where there are
    several datasets). `drawn` and `tokens` count the clips of all batches over all ranks, by stage, and the model's
    tokens in them; `waited` adds up the time in which `batch` and `fetch` waited for clips to be read and decoded.

    Three batches of each order are in memory, the one in use and two that are read meanwhile, beside `cache_bytes`.
    """

    def __init__(
        self, data: Location | Sequence[Part], arrays: Collection[str], text: TextEncoder, grid: Grid | None = None,
        cache_bytes: int = 512 << 20, text_bytes: int = 256 << 20, on_bad: Literal["stop", "skip"] = "stop",
        encoded: LatentCache | None = None, max_bad: float = MOST_BAD, affine_depth: bool = False,
    ) -> None:  # fmt: skip
        self.text, self.on_bad = text, on_bad
        parts = [Part(data, cache=encoded)] if isinstance(data, Location) else data
        self.mixture = Mixture(parts, arrays, affine_depth=affine_depth)
        self.name, self.cached, self.affine = self.mixture.name, self.mixture.cached, bool(self.mixture.affine.any())
        self.skips = Skips(self.name, len(self), max_bad)
        self.latest: tuple[str, ...] = ()
        self.waited = Wait()
        self.drawn, self.tokens = Counter[str](), Counter[str]()
        self._threads = PyAVDecoder().together
        self._room = cache_bytes
        self._keeps: bool | None = None  # whether all clips have room, by the first one
        self._cache: dict[tuple[int, bool], Sample] = {}
        self._lock = Lock()  # of the two above: threads that read ahead use them too
        self._sources = {  # by whether pixels are decoded; without a cache they always are
            pixels: Replacing(
                self.name, partial(self.sample, pixels=pixels), len(self), on_bad, self.mixture.alike, max_bad
            )
            for pixels in (True, not self.cached)
        }
        self._transfers: dict[torch.device, Transfer] = {}
        self._courses: dict[tuple[int, str], Course] = {}  # by seed and stage
        self._ahead: dict[tuple[Any, ...], tuple[int, Iterator[_Loaded]]] = {}  # by order: next step, its reader
        self._fetched: dict[tuple[Any, ...], _Loaded] = {}  # by order and step
        self._captions = EncodedCaptions(text, text_bytes)
        self.no_caption = NoCaption(self.mixture.parts[0].cache if self.cached else None, self._captions)
        self._stride = (1, 1, 1) if grid is None else grid.token_stride
        for bucket in self.mixture.buckets if grid is not None else ():
            try:
                check_size(bucket[:3], self._stride)
            except ValueError as error:
                raise UserError(f"{self.name}: clips of {bucket}: {error}: simulate at that size") from None

    def __len__(self) -> int:
        return len(self.mixture)

    def decode_by(self, decoder: VideoDecoder) -> None:
        """Sets the decoder of the videos; clips that it leaves on a GPU are not kept in memory."""
        self._threads = decoder.together
        self.mixture.decode_by(decoder)

    def course(self, seed: int, stage: str) -> Course:
        """The order in which `batch` draws clips for a stage."""
        if (seed, stage) not in self._courses:
            self._courses[seed, stage] = Course(self.mixture.order(seed))
        return self._courses[seed, stage]

    def bucket(self, seed: int, stage: str, step: int, size: int) -> Bucket:
        """What the clips of a step's global batch have in common; arguments as of `batch`."""
        return self.mixture.buckets[self.mixture.bucket[self.course(seed, stage).batch(step, size)[0]]]

    def sample(self, index: int, *, pixels: bool = True) -> Sample:
        """One decoded clip; with caches an `EncodedSample`, whose video is there if `pixels` is set."""
        if (kept := self._cache.get((index, pixels))) is not None:
            return kept
        sample = self.mixture.read(index, pixels=pixels)
        with self._lock:
            if self._keeps is None:
                self._keeps = len(self) * sample.nbytes <= self._room
            kept_in_memory = self._keeps and isinstance(sample.video, np.ndarray) and sample.nbytes <= self._room
            if (index, pixels) not in self._cache and kept_in_memory:
                self._room -= sample.nbytes
                self._cache[index, pixels] = sample
        return sample

    def collate(
        self, which: Sequence[int], rng_keys: list[tuple[int | str, ...]], device: torch.device | str = "cpu"
    ) -> Batch:
        """The clips at these indices as a batch on a device; UserError for one that cannot be read or used."""
        samples = [self.sample(index) for index in which]
        for index, sample in zip(which, samples, strict=True):
            self._check_caption(index, sample)
        return self._batch(samples, Transfer(device).start(on_host(samples)), rng_keys, torch.device(device))

    def _batch(
        self, samples: Sequence[Sample], copied: Copied, rng_keys: list[tuple[int | str, ...]], device: torch.device
    ) -> Batch:
        """Samples whose tensors (`on_host`) are on the device, or on their way."""
        tensors = copied.ready()
        if (video := tensors.get(VIDEO)) is None:  # decoded on the device
            video = torch.stack([torch.as_tensor(sample.video, device=device) for sample in samples])
        latents = None
        if self.cached:
            cache = self.mixture.parts[0].cache
            assert cache is not None
            latents = tensors[LATENTS].float()
            text = stacked([tensors[f"{TEXT} {i}"] for i in range(len(samples))], cache.card.text, device)
        else:
            text = torch.stack([self._captions[sample.meta["caption"]] for sample in samples]).to(device)
        return Batch(
            video=from_bytes(video),
            text=text,
            arrays={name: tensors[f"{ARRAY} {name}"] for name in samples[0].arrays},
            intrinsics=tensors[INTRINSICS],
            rng_keys=rng_keys,
            latents=latents,
            affine=tuple(depth_kind(sample.meta) == AFFINE for sample in samples) if self.affine else (),
        )

    def _check_caption(self, index: int, sample: Sample) -> None:
        """Raises ClipFault for a caption that the text encoder does not take; those in a cache it has taken."""
        try:
            if not self.cached:
                self._captions[sample.meta["caption"]]
        except ValueError as error:
            folder, what = self.mixture.place(index)[0].folder, f"clip {sample.key}: {error}"
            raise ClipFault(folder, sample.key, what, "write this dataset again") from None

    def _read(self, size: int, parallel: Parallel, seed: int, stage: str, step: int, pixels: bool) -> _Loaded:
        """This rank's clips of a step; those of the following steps are decoded, put together and copied to the device
        from then on, by threads."""
        source = self._sources[pixels or not self.cached]
        order = (size, parallel.data_rank, parallel.data_size, seed, stage)
        if (fetched := self._fetched.pop((*order, step), None)) is not None:
            return fetched
        following, ahead = self._ahead.pop(order, (-1, iter(())))
        transfer = self._transfer(parallel.device)
        if following != step:
            batches = (self._places(size, parallel, seed, stage, s) for s in count(step))

            def collate(reads: list[Read]) -> _Loaded:
                return _Loaded(reads, transfer.start(on_host([read.sample for read in reads])))

            late = parallel.timeouts.step
            ahead = stream(source, batches, collate, threads=self._threads, prefetch=_AHEAD, limit=late)
        try:
            with self.waited:
                loaded = next(ahead)
        except Late as unread:
            raise self._late(unread.missing, parallel.timeouts.step) from None
        self._ahead[order] = step + 1, ahead
        reads = [self._with_caption(read, source) for read in loaded.reads]
        if all(one is other for one, other in zip(reads, loaded.reads, strict=True)):
            return loaded
        return _Loaded(reads, transfer.start(on_host([read.sample for read in reads])))

    def _transfer(self, device: torch.device) -> Transfer:
        if device not in self._transfers:
            self._transfers[device] = Transfer(device)
        return self._transfers[device]

    def _late(self, missing: Sequence[Place], seconds: float) -> Stuck:
        dataset, own = self.mixture.place(missing[0].index)
        row = dataset.row(own)
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        late = f"{dataset.folder}/{row['shard']}: clip {row['key']}{more}: not read in {seconds:g} s (timeouts.step)"
        return Stuck(f"{late}: check the disk or its connection, then --resume")

    def _with_caption(self, read: Read, source: Replacing) -> Read:
        """The clip, or the one that replaces it if its caption cannot be encoded."""
        while True:
            try:
                self._check_caption(read.index, read.sample)
                return read
            except ClipFault as fault:
                read = source.refuse(read, fault)

    def _places(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> Sequence[Place]:
        """This rank's places in the global batch of a step."""
        order = self.course(seed, stage).batch(step, size)
        return [Place(index, (seed, stage, step, place)) for place, index in parallel.local(list(enumerate(order)))]

    def fetch(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> None:
        """Reads the clips of a later call of `batch`, whose errors it raises, and keeps them for it."""
        loaded = on_all_ranks(lambda: self._read(size, parallel, seed, stage, step, False))
        self._fetched[(size, parallel.data_rank, parallel.data_size, seed, stage, step)] = loaded

    def batch(
        self, size: int, parallel: Parallel, seed: int, stage: str, step: int, update: int | None = None, *,
        pixels: bool = False,
    ) -> Batch:  # fmt: skip
        """This rank's share of the global batch of a step.

        size: clips of the global batch. parallel: the ranks. seed, stage, step: decide which clips these are.
        update: number of the training step for `on_skip`, if it is not `step`. pixels: whether the video is needed
        beside the latents; without a cache it is always there.

        UserError, on all ranks, where they cannot share it, or a clip of any of them cannot be read and is not
        replaced.
        """
        places = self._places(size, parallel, seed, stage, step)
        reads: list[Read] = []

        def load() -> Batch:
            loaded = self._read(size, parallel, seed, stage, step, pixels)
            reads.extend(loaded.reads)
            keyed = [place.key for place in places]
            batch = self._batch([read.sample for read in reads], loaded.copied, keyed, parallel.device)
            return replace(batch, share=parallel.share)

        batch = on_all_ranks(load)
        self.latest = tuple(map(self._name, reads))
        self.drawn[stage] += size
        self.tokens[stage] += size * self._tokens(reads[0])
        if self.on_bad == "skip":
            faults = {self._name(fault): fault for read in reads for fault in read.faults}
            self.skips.note(faults, parallel, step if update is None else update)
        return batch

    def _name(self, of: Read | ClipFault) -> str:
        """What a clip is called: its key, with its folder where there are several datasets."""
        folder = of.folder if isinstance(of, ClipFault) else self.mixture.place(of.index)[0].folder
        key = of.key if isinstance(of, ClipFault) else of.sample.key
        return key if len(self.mixture.parts) == 1 else f"{folder}/{key}"

    def _tokens(self, read: Read) -> int:
        bucket = self.mixture.buckets[self.mixture.bucket[read.index]]
        grid = Grid(bucket.frames, bucket.height, bucket.width, self._stride)
        return math.prod(grid.tokens)
