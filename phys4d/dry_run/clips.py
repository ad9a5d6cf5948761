"""Clips without values, in place of a dataset."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phys4d.batch import Batch
from phys4d.engine.data.clip.schema import ARRAYS, ArrayRule
from phys4d.engine.distributed.parallel import Parallel


@dataclass(frozen=True)
class BatchWithoutValues(Batch):
    """Random numbers have the right shape, too."""

    def normal_like(self, latents: Tensor, use: str) -> Tensor:
        return torch.empty_like(latents)

    def uniform(self, use: str) -> Tensor:
        return torch.empty(len(self.rng_keys))


class ClipsWithoutValues:
    """As `phys4d.clips.Clips`, of any size.

    size: (frames, height, width). arrays: names of the stored arrays. text: (tokens, channels) of a caption. latents:
    [C, T', H', W'] of a clip in a cache, None without one.
    """

    latest: tuple[str, ...] = ()

    def __init__(
        self, size: tuple[int, int, int], arrays: tuple[str, ...], text: tuple[int, int],
        latents: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self.size, self.arrays, self.text, self.latents = size, arrays, text, latents

    def fetch(self, *place: object) -> None:
        """Nothing to read."""

    def no_caption(self, device: torch.device) -> Tensor:
        """Tokens of an empty caption."""
        return torch.empty(*self.text)

    def batch(
        self, size: int, parallel: Parallel, seed: int, stage: str, step: int, update: int | None = None, *,
        pixels: bool = False,
    ) -> Batch:  # fmt: skip
        """This rank's share of a global batch of `size` clips."""
        places = parallel.local(range(size))
        count, (frames, height, width) = len(places), self.size
        arrays = {}
        for name in self.arrays:
            rule = ARRAYS.get(name, ArrayRule("uint8"))
            arrays[name] = torch.empty(count, *rule.shape(self.size), dtype=getattr(torch, rule.dtype))
        return BatchWithoutValues(
            video=torch.empty(count, 3, frames if pixels or self.latents is None else 0, height, width),
            text=torch.empty(count, *self.text),
            arrays=arrays,
            intrinsics=torch.empty(count, frames, 3, 3),
            rng_keys=[(seed, stage, step, place) for place in places],
            share=parallel.share,
            latents=None if self.latents is None else torch.empty(count, *self.latents),
        )
