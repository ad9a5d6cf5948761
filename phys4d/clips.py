"""Batches of clips for a stage: which clips a step sees, read ahead of it, in memory once decoded, as tensors."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from phys4d.bad_clips import Place, Read, Replacing, most_bad, too_many
from phys4d.batch import Batch
from phys4d.caches.captions import EncodedCaptions
from phys4d.caches.packing import stacked
from phys4d.caches.read import EncodedSample, LatentCache
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.decoders.interface import VideoDecoder
from phys4d.engine.data.sampler import indices
from phys4d.engine.data.schema import REQUIRED
from phys4d.engine.data.stream import stream
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError, printable
from phys4d.engine.training.telemetry import Wait
from phys4d.models.interface import Grid, TextEncoder, from_bytes

TRUTH = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid", "visible", "moving")
PSEUDO = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid")


def clip_size(folder: Path) -> tuple[int, int, int]:
    """(frames, height, width) of a dataset's clips; UserError where it is empty or holds several sizes."""
    return ClipDataset(folder, arrays=()).size()


class Clips:
    """A dataset as an endless, ordered source of batches.

    The clips of the next step are decoded while a step runs.

    folder: dataset folder.
    arrays: names of the arrays that every clip must have.
    text: encodes the captions.
    grid: of the model, whose clips must have its size; None: any size.
    cache_bytes: decoded clips that stay in memory, per rank.
    text_bytes: encoded captions that stay on the text encoder's device, per rank.
    encoded: cache of latents and tokens, from which they are read instead of being computed; `text` is then not called.
    on_bad: whether a clip that cannot be used stops the run or is replaced; which clip replaces it depends on seed,
        stage, step and place in the global batch only. The run ends if more than `bad_clips.MOST_BAD` are bad.

    The attribute `skipped` holds what is wrong with each clip that was replaced on any rank, by key, on rank 0;
    `on_skip` is called there with step, key and fault of each, once; `earlier` gives those of earlier sessions.
    `latest` holds the keys of the latest batch of this rank; `waited` adds up the time in which `batch` and `fetch`
    waited for clips to be read and decoded.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Collection[str],
        text: TextEncoder,
        grid: Grid | None = None,
        cache_bytes: int = 2 << 30,
        text_bytes: int = 256 << 20,
        on_bad: Literal["stop", "skip"] = "stop",
        encoded: LatentCache | None = None,
    ) -> None:
        self.folder, self.text, self.on_bad, self.encoded = folder, text, on_bad, encoded
        self.dataset = ClipDataset(folder, arrays=arrays, required=REQUIRED)
        self.skipped: dict[str, str] = {}
        self._reported: set[str] = set()  # keys that this rank has reported
        self.on_skip: Callable[[int, str, str], None] = self._print_skip
        self.earlier: Callable[[], dict[str, str]] = dict
        self.latest: tuple[str, ...] = ()
        self.waited = Wait()
        self._room = cache_bytes
        self._cache: dict[tuple[int, bool], Sample] = {}
        self._lock = Lock()  # of the two above: threads that read ahead use them too
        self._sources = {  # by whether pixels are decoded; without a cache they always are
            pixels: Replacing(folder, partial(self.sample, pixels=pixels), len(self.dataset), on_bad)
            for pixels in (True, encoded is None)
        }
        self._ahead: dict[tuple[Any, ...], tuple[int, Iterator[list[Read]]]] = {}  # by order: next step, its reader
        self._fetched: dict[tuple[Any, ...], list[Read]] = {}  # by order and step
        self._captions = EncodedCaptions(text, text_bytes)
        self.size = self.dataset.size()
        expected = self.size if grid is None else (grid.frames, grid.height, grid.width)
        if self.size != expected:
            raise UserError(
                f"{folder}: clips of {self.size} (frames, height, width): this model takes {expected}: "
                "simulate at that size or train another model"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def decode_by(self, decoder: VideoDecoder) -> None:
        """Sets the decoder of the videos; clips that it leaves on a GPU are not kept in memory."""
        self.dataset.decoder = decoder

    def sample(self, index: int, *, pixels: bool = True) -> Sample:
        """One decoded clip; with a cache an `EncodedSample`, whose video is there if `pixels` is set."""
        if (kept := self._cache.get((index, pixels))) is not None:
            return kept
        sample = self.dataset.read(index, video=pixels)
        if self.encoded is not None:
            sample = self.encoded.read(index, sample)
        with self._lock:
            kept_in_memory = isinstance(sample.video, np.ndarray) and sample.nbytes <= self._room
            if (index, pixels) not in self._cache and kept_in_memory:
                self._room -= sample.nbytes
                self._cache[index, pixels] = sample
        return sample

    def collate(
        self, which: Sequence[int], rng_keys: list[tuple[int | str, ...]], device: torch.device | str = "cpu"
    ) -> Batch:
        """The clips at these indices as a batch on a device; UserError for one that cannot be read or used."""
        samples = [self.sample(i) for i in which]
        for sample in samples:
            self._check_caption(sample)
        return self._collate(samples, rng_keys, device)

    def _collate(
        self, samples: Sequence[Sample], rng_keys: list[tuple[int | str, ...]], device: torch.device | str
    ) -> Batch:
        video = torch.stack([torch.as_tensor(s.video, device=device) for s in samples])
        arrays = {n: torch.from_numpy(np.stack([s.arrays[n] for s in samples])) for n in samples[0].arrays}
        intrinsics = torch.tensor(np.stack([s.meta["intrinsics"] for s in samples]), dtype=torch.float32)
        text, latents = self._encodings(samples, device)
        return Batch(
            video=from_bytes(video),
            text=text,
            arrays={name: array.to(device) for name, array in arrays.items()},
            intrinsics=intrinsics.to(device),
            rng_keys=rng_keys,
            latents=latents,
        )

    def _encodings(self, samples: Sequence[Sample], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, L, D] of the captions, and latents [B, C, T', H', W'] where a cache has them."""
        if self.encoded is None:
            return torch.stack([self._captions[s.meta["caption"]] for s in samples]).to(device), None
        cached, card = [s for s in samples if isinstance(s, EncodedSample)], self.encoded.card
        latents = stacked([s.latents for s in cached], card.latents, device)
        return stacked([s.text for s in cached], card.text, device), latents

    def _check_caption(self, sample: Sample) -> None:
        """Raises ClipFault for a caption that the text encoder does not take; those in a cache it has taken."""
        try:
            if self.encoded is None:
                self._captions[sample.meta["caption"]]
        except ValueError as error:
            what = f"clip {sample.key}: {error}"
            raise ClipFault(self.folder, sample.key, what, "write this dataset again") from None

    def _read(self, size: int, parallel: Parallel, seed: int, stage: str, step: int, pixels: bool) -> list[Read]:
        """This rank's clips of a step; those of the following step are decoded from then on, by threads."""
        source = self._sources[pixels or self.encoded is None]
        order = (size, parallel.data_rank, parallel.data_size, seed, stage)
        if (fetched := self._fetched.pop((*order, step), None)) is not None:
            return fetched
        following, ahead = self._ahead.pop(order, (-1, iter(())))
        if following != step:
            batches = (self._places(size, parallel, seed, stage, s) for s in count(step))
            ahead = stream(source, batches, threads=self.dataset.decoder.together, prefetch=1)
        with self.waited:
            reads = next(ahead)
        self._ahead[order] = step + 1, ahead
        return [self._with_caption(read, source) for read in reads]

    def _with_caption(self, read: Read, source: Replacing) -> Read:
        """The clip, or the one that replaces it if its caption cannot be encoded."""
        while True:
            try:
                self._check_caption(read.sample)
                return read
            except ClipFault as fault:
                read = source.refuse(read, fault)

    def _places(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> Sequence[Place]:
        """This rank's places in the global batch of a step."""
        order = indices(seed, step, size, len(self))
        return parallel.local([Place(index, (seed, stage, step, place)) for place, index in enumerate(order)])

    def fetch(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> None:
        """Reads the clips of a later call of `batch`, whose errors it raises, and keeps them for it."""
        reads = on_all_ranks(lambda: self._read(size, parallel, seed, stage, step, False))
        self._fetched[(size, parallel.data_rank, parallel.data_size, seed, stage, step)] = reads

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
            reads.extend(self._read(size, parallel, seed, stage, step, pixels))
            keys = ", ".join(read.sample.key for read in reads)
            try:
                keyed = [place.key for place in places]
                batch = self._collate([read.sample for read in reads], keyed, parallel.device)
                return replace(batch, share=parallel.share)
            except (TypeError, ValueError, KeyError, IndexError) as error:
                raise UserError(f"{self.folder}: clips {keys}: cannot be put together ({error})") from error

        batch = on_all_ranks(load)
        self.latest = tuple(read.sample.key for read in reads)
        if self.on_bad == "skip":
            self._note(reads, parallel, step if update is None else update)
        return batch

    def _note(self, reads: list[Read], parallel: Parallel, step: int) -> None:
        """Reports the clips that were replaced, and raises UserError, on all ranks, if they are too many."""
        found = {f.key: f.brief for read in reads for f in read.faults if f.key not in self._reported}
        if not parallel.any(bool(found)):
            return
        self._reported |= found.keys()
        gathered = parallel.gather(found)

        def report() -> None:
            if gathered is not None and not self.skipped:
                self.skipped.update(self.earlier())
            for key, brief in sorted(item for rank in gathered or () for item in rank.items()):
                if key not in self.skipped:
                    self.skipped[key] = brief
                    self.on_skip(step, key, brief)
            if len(self.skipped) > most_bad(len(self)):
                raise too_many(self.folder, len(self.skipped), len(self), brief)

        on_all_ranks(report)

    def skipped_line(self) -> str:
        """One line about the clips that were replaced."""
        return f"{len(self.skipped)} of {len(self)} clips skipped: {', '.join(sorted(self.skipped))}"

    def _print_skip(self, step: int, key: str, brief: str) -> None:
        print(printable(f"skipped at step {step + 1}: {self.folder}/{brief}"), file=sys.stderr)
