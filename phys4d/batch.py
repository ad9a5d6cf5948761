"""Clips of one step on one rank, as tensors."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phys4d.engine.random import normal, uniform
from phys4d.models.interface import Codec, encode_clips, encode_first


@dataclass(frozen=True)
class Batch:
    """Clips of one step on one rank.

    video: [B, 3, T, H, W] fp32 in [-1, 1]; [B, 3, 0, H, W] where latents are there and pixels were not asked for. text:
    [B, L, D] tokens of the captions. arrays: the stored arrays by name (depth, motion, masks), with a batch dimension.
    intrinsics: [B, T, 3, 3] in pixels. rng_keys: one key per clip for its random numbers, which depends on seed, stage,
    step and place in the global batch only. latents: fp32 of a cache (`encode_for_cache`), None without one. share:
    weight, in a sum over all batches and ranks of a step, of a mean over these clips. affine: of each clip whether its
    depth is disparity up to scale and shift instead of metres; () where none of the dataset's is.
    """

    video: Tensor
    text: Tensor
    arrays: dict[str, Tensor]
    intrinsics: Tensor
    rng_keys: list[tuple[int | str, ...]]
    share: float = 1.0
    latents: Tensor | None = None
    affine: tuple[bool, ...] = ()

    def encoded(self, codec: Codec) -> Tensor:
        """Latents of the clips [B, C, T', H', W']: those of the cache, or computed by the codec."""
        if self.latents is None:
            return encode_clips(codec, self.video)
        if not codec.image_apart:
            return self.latents
        return self.latents[:, :, : (self.intrinsics.shape[1] - 1) // codec.temporal_stride + 1].contiguous()

    def first(self, codec: Codec, clean: Tensor) -> Tensor:
        """What generation is conditioned on of the first frame, [B, C, F, H', W']: its clean latent (F = 1), or what
        the codec's `encode_image` gives; clean: of `encoded`."""
        if not codec.image_apart:
            return clean[:, :, :1]
        if self.latents is not None:
            return self.latents[:, :, clean.shape[2] :]
        return encode_first(codec, self.video[:, :, :1], self.video.shape[2])

    def take(self, which: Sequence[int], rng_keys: list[tuple[int | str, ...]] | None = None) -> "Batch":
        """The clips at these positions, which may repeat; rng_keys: of each, default their own."""
        index = torch.tensor(which, device=self.video.device)
        return replace(
            self,
            video=self.video[index],
            text=self.text[index],
            arrays={name: array[index] for name, array in self.arrays.items()},
            intrinsics=self.intrinsics[index],
            latents=None if self.latents is None else self.latents[index],
            rng_keys=[self.rng_keys[i] for i in which] if rng_keys is None else rng_keys,
            share=self.share * len(which) / len(self.rng_keys),
            affine=tuple(self.affine[i] for i in which) if self.affine else (),
        )

    def split(self, size: int | None) -> list["Batch"]:
        """Micro-batches of `size` clips in order, the last with what is left; None: one of all clips, as it is."""
        count = len(self.rng_keys)
        if size is None or size >= count:
            return [self]
        return [self.take(range(start, min(start + size, count))) for start in range(0, count, size)]

    def normal_like(self, latents: Tensor, use: str) -> Tensor:
        """White noise shaped as latents [B, ...], clip by clip from its own key."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy lets other threads run
            drawn = pool.map(lambda key: normal(latents.shape[1:], *key, use), self.rng_keys)
            return torch.stack(list(drawn)).to(latents)

    def uniform(self, use: str) -> Tensor:
        """One uniform number per clip, [B]."""
        return torch.stack([uniform((), *key, use) for key in self.rng_keys]).to(self.video.device)
