"""Batches of clips for a stage: which clips a step sees, read ahead of it, in memory once decoded, as tensors."""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.data.sampler import indices
from phys4d.engine.data.stream import stream
from phys4d.engine.errors import UserError
from phys4d.engine.parallel import Parallel, on_all_ranks
from phys4d.engine.random import normal, uniform
from phys4d.models.interface import Grid, TextEncoder

TRUTH = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid", "visible", "moving")
PSEUDO = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid")


@dataclass(frozen=True)
class Batch:
    """Clips of one step on one rank.

    video: [B, 3, T, H, W] fp32 in [-1, 1]. text: [B, L, D] tokens of the captions. arrays: the stored arrays by name
    (depth, motion, masks), with a batch dimension. intrinsics: [B, T, 3, 3] in pixels. rng_keys: one key per clip for
    its random numbers, which depends on seed, stage, step and place in the global batch only.
    """

    video: Tensor
    text: Tensor
    arrays: dict[str, Tensor]
    intrinsics: Tensor
    rng_keys: list[tuple[int | str, ...]]

    def normal_like(self, latents: Tensor, use: str) -> Tensor:
        """White noise shaped as latents [B, ...], clip by clip from its own key."""
        return torch.stack([normal(latents.shape[1:], *key, use) for key in self.rng_keys]).to(latents)

    def uniform(self, use: str) -> Tensor:
        """One uniform number per clip, [B]."""
        return torch.stack([uniform((), *key, use) for key in self.rng_keys]).to(self.video.device)


def clip_size(folder: Path) -> tuple[int, int, int]:
    """(frames, height, width) of a dataset's clips; UserError where it is empty or holds several sizes."""
    return ClipDataset(folder, arrays=()).size()


class Clips:
    """A dataset as an endless, ordered source of batches.

    The clips of the next step are decoded while a step runs. Decoded clips stay in memory up to `cache_bytes`, encoded
    captions on the text encoder's device up to `text_bytes`.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Collection[str],
        text: TextEncoder,
        grid: Grid | None = None,
        cache_bytes: int = 2 << 30,
        text_bytes: int = 256 << 20,
    ) -> None:
        self.folder, self.text = folder, text
        self.dataset = ClipDataset(folder, arrays=arrays)
        self._room = cache_bytes
        self._cache: dict[int, Sample] = {}
        self._lock = Lock()  # of the two above: threads that read ahead use them too
        self._ahead: dict[tuple[Any, ...], tuple[int, Iterator[list[Sample]]]] = {}  # by order: next step, its reader
        self._encoded: OrderedDict[str, Tensor] = OrderedDict()  # by caption, the latest used at the end
        self._text_bytes = text_bytes
        self.size = self.dataset.size()
        expected = self.size if grid is None else (grid.frames, grid.height, grid.width)
        if self.size != expected:
            raise UserError(
                f"{folder}: clips of {self.size} (frames, height, width): this model takes {expected}: "
                "simulate at that size or train another model"
            )
        missing = set(arrays) - set(self.dataset[0].arrays)
        if missing:
            raise UserError(f"{folder}: clip {self.dataset[0].key} has no {', '.join(sorted(missing))}: label it first")

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """One decoded clip."""
        if (kept := self._cache.get(index)) is not None:
            return kept
        sample = self.dataset[index]
        size = sample.video.nbytes + sum(a.nbytes for a in sample.arrays.values())
        with self._lock:
            if index not in self._cache and size <= self._room:
                self._room -= size
                self._cache[index] = sample
        return sample

    __getitem__ = sample

    def collate(
        self, which: Sequence[int], rng_keys: list[tuple[int | str, ...]], device: torch.device | str = "cpu"
    ) -> Batch:
        """The clips at these indices as a batch on a device; UserError for one that cannot be read or used."""
        return self._collate([self.sample(i) for i in which], rng_keys, device)

    def _collate(
        self, samples: Sequence[Sample], rng_keys: list[tuple[int | str, ...]], device: torch.device | str
    ) -> Batch:
        video = torch.from_numpy(np.stack([s.video for s in samples]))
        arrays = {n: torch.from_numpy(np.stack([s.arrays[n] for s in samples])) for n in samples[0].arrays}
        intrinsics = torch.tensor(np.stack([self._required(s, "intrinsics") for s in samples]), dtype=torch.float32)
        try:
            text = torch.stack([self._encode(self._required(s, "caption")) for s in samples])
        except ValueError as error:
            raise UserError(f"{self.folder}: {error}: write this dataset again") from None
        return Batch(
            video=video.to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1,
            text=text.to(device),
            arrays={name: array.to(device) for name, array in arrays.items()},
            intrinsics=intrinsics.to(device),
            rng_keys=rng_keys,
        )

    def _encode(self, caption: str) -> Tensor:
        """Tokens [L, D] of a caption, encoded alone and once: equal whatever else is in the batch."""
        if caption in self._encoded:
            self._encoded.move_to_end(caption)
            return self._encoded[caption]
        tokens = self.text([caption])[0]
        self._encoded[caption] = tokens
        while len(self._encoded) * tokens.nbytes > self._text_bytes and len(self._encoded) > 1:
            self._encoded.popitem(last=False)
        return tokens

    def _read(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> list[Sample]:
        """This rank's clips of a step; those of the following step are decoded from then on, by threads."""
        order = (size, parallel.rank, parallel.world_size, seed, stage)
        following, ahead = self._ahead.pop(order, (-1, iter(())))
        if following != step:
            ahead = stream(self, (parallel.local(indices(seed, s, size, len(self))) for s in count(step)), prefetch=1)
        samples = next(ahead)
        self._ahead[order] = step + 1, ahead
        return samples

    def _required(self, sample: Sample, name: str) -> Any:
        """What a clip's json says under a name that every clip must have."""
        if name not in sample.meta:
            raise UserError(f"{self.folder}: clip {sample.key}: json has no {name}: write this dataset again")
        return sample.meta[name]

    def batch(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> Batch:
        """This rank's share of the global batch of `size` clips at a step.

        UserError, on all ranks, where they cannot share it or a clip of any of them cannot be read.
        """
        keys: list[tuple[int | str, ...]] = [(seed, stage, step, place) for place in range(size)]
        rng_keys = list(parallel.local(keys))
        return on_all_ranks(
            lambda: self._collate(self._read(size, parallel, seed, stage, step), rng_keys, parallel.device)
        )
