"""Batches of clips for a stage: which clips a step sees, in memory once decoded, as tensors."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.data.sampler import indices
from phys4d.engine.errors import UserError
from phys4d.engine.parallel import Parallel, together
from phys4d.engine.random import normal, uniform
from phys4d.models.interface import Grid, TextEncoder

TRUTH = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid", "visible", "moving")
PSEUDO = ("depth", "motion", "depth_valid", "flow_valid", "dz_valid")


@dataclass(frozen=True)
class Batch:
    """video [B, 3, T, H, W] in [-1, 1], text [B, L, D], the stored arrays by name with a batch dimension, and `draws`:
    one key per clip for its random numbers, which depends on seed, stage, step and place in the global batch only."""

    video: Tensor
    text: Tensor
    arrays: dict[str, Tensor]
    intrinsics: Tensor
    draws: list[tuple[int | str, ...]]

    def normal_like(self, latents: Tensor, use: str) -> Tensor:
        """White noise shaped as latents [B, ...], clip by clip from its own key."""
        return torch.stack([normal(latents.shape[1:], *key, use) for key in self.draws]).to(latents)

    def uniform(self, use: str) -> Tensor:
        """One uniform number per clip, [B]."""
        return torch.stack([uniform((), *key, use) for key in self.draws]).to(self.video.device)


def clip_size(folder: Path) -> tuple[int, int, int]:
    """(frames, height, width) of a dataset's clips; UserError where it is empty or holds several sizes."""
    return ClipDataset(folder, arrays=()).size()


class Clips:
    """A dataset as an endless, ordered source of batches; decoded clips stay in memory up to `cache_bytes`."""

    def __init__(
        self,
        folder: Path,
        arrays: Collection[str],
        text: TextEncoder,
        grid: Grid | None = None,
        cache_bytes: int = 2 << 30,
    ) -> None:
        self.folder, self.text = folder, text
        self.dataset = ClipDataset(folder, arrays=arrays)
        self._room = cache_bytes
        self._cache: dict[int, Sample] = {}
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
        if index in self._cache:
            return self._cache[index]
        sample = self.dataset[index]
        size = sample.video.nbytes + sum(a.nbytes for a in sample.arrays.values())
        if size <= self._room:
            self._room -= size
            self._cache[index] = sample
        return sample

    def collate(
        self, which: Sequence[int], draws: list[tuple[int | str, ...]], device: torch.device | str = "cpu"
    ) -> Batch:
        """The clips at these indices as a batch on a device; UserError for one that cannot be read or used."""
        samples = [self.sample(i) for i in which]
        video = torch.from_numpy(np.stack([s.video for s in samples]))
        arrays = {n: torch.from_numpy(np.stack([s.arrays[n] for s in samples])) for n in samples[0].arrays}
        intrinsics = torch.tensor(np.stack([self._said(s, "intrinsics") for s in samples]), dtype=torch.float32)
        try:
            text = self.text([self._said(s, "caption") for s in samples])
        except ValueError as error:
            raise UserError(f"{self.folder}: {error}: write this dataset again") from None
        return Batch(
            video=video.to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1,
            text=text.to(device),
            arrays={name: array.to(device) for name, array in arrays.items()},
            intrinsics=intrinsics.to(device),
            draws=draws,
        )

    def _said(self, sample: Sample, name: str) -> Any:
        """What a clip's json says under a name that every clip must have."""
        if name not in sample.meta:
            raise UserError(f"{self.folder}: clip {sample.key}: json has no {name}: write this dataset again")
        return sample.meta[name]

    def batch(self, size: int, parallel: Parallel, seed: int, stage: str, step: int) -> Batch:
        """This rank's share of the global batch of `size` clips at a step.

        UserError, on all ranks, where they cannot share it or a clip of any of them cannot be read.
        """
        clips = parallel.local(indices(seed, step, size, len(self)))
        draws = parallel.local([(seed, stage, step, place) for place in range(size)])
        return together(lambda: self.collate(clips, list(draws), parallel.device))
