"""The model that is probed, and the clips that it is probed with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from phys4d.caches.lookup import find_cache
from phys4d.caches.source import Source
from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.generate.opening import kind_of, model_of
from phys4d.models import folder as model_folder
from phys4d.models.card import CARD
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.interface import check_size
from phys4d.models.preflight import check_released
from phys4d.models.registry import MODELS
from phys4d.models.world import WorldModel
from phys4d.probe.targets import ARRAYS, Targets, token_targets

LEAST = 4
"""Clips that a probe needs: every fourth is held out."""


@dataclass(frozen=True)
class Probed:
    """A model whose weights are not yet read, and the dataset.

    model: on the CPU, frozen. source: of its codec and text encoder. sets: of the blocks that are probed. data: of the
    clips. clips: how many are used, from the first on. stride: pixels under one token.
    """

    model: WorldModel
    source: Source
    sets: tuple[tuple[int, ...], ...]
    data: Location
    clips: int
    stride: tuple[int, int, int]


@dataclass(frozen=True)
class Encoded:
    """One clip on the CPU.

    clean: its latents [1, C, T', H', W']. first: the latent of its first frame. text: tokens. noise: as clean. targets:
    of its tokens. held_out: whether it measures, or fits.
    """

    clean: Tensor
    first: Tensor
    text: Tensor
    noise: Tensor
    targets: Targets
    held_out: bool


def open_probed(path: Path, data: Location, clips: int, sets: Sequence[tuple[int, ...]] | None) -> Probed:
    """The model in a folder and the labelled clips, checked before weights are read.

    path: a run folder, a model folder, or that of a published model. data: dataset folder or URL. clips: how many, at
    most. sets: of blocks; None: each block alone.

    Raises UserError, one line.
    """
    dataset = ClipDataset(data, arrays=ARRAYS)
    size, count = dataset.size(), min(clips, len(dataset))
    if count < LEAST:
        raise UserError(f"{data}: {count} clips: a probe needs {LEAST} or more, of which every fourth is held out")
    folder = model_of(path)
    if (folder / CARD).is_file():
        loaded = model_folder.load(folder)
    else:
        unused = HeadConfig(kind="linear", width=8)
        config = ModelConfig(kind=kind_of(folder).kind, taps=(0,), heads=unused)
        check_released(folder, config)
        loaded = model_folder.released(folder, config, size)
    model = loaded.model
    outline = MODELS[model.config.kind].outline(model.config, loaded.base)
    try:
        outline.check_size(size)
        check_size(size, outline.token_stride)
    except ValueError as error:
        raise UserError(f"{data}: {error}: `phys4d data repack` makes clips of another size") from None
    blocks = len(model.backbone.blocks)
    wanted = tuple((k,) for k in range(blocks)) if sets is None else tuple(sets)
    for taps in wanted:
        if max(taps) >= blocks:
            raise UserError(f"--taps {','.join(map(str, taps))}: the transformer has blocks 0 to {blocks - 1}")
    source = Source(model.config.kind, loaded.base)
    return Probed(model, source, wanted, data, count, outline.token_stride)


@torch.no_grad()
def encoded_clips(probed: Probed, seed: int, device: torch.device) -> list[Encoded]:
    """The clips, encoded, with their noise and targets; the model is on the device.

    probed: the model and its dataset. seed: of the noise, which depends on it and on the clip's number alone.

    Raises UserError for a clip that cannot be read, or whose depth is not in metres.
    """
    model = probed.model
    cache = find_cache(probed.data, None, "auto", probed.source)
    clips = Clips(probed.data, ARRAYS, model.text, encoded=cache)
    done = []
    for k in range(probed.clips):
        batch = clips.collate([k], [(seed, "probe", k)], device)
        clean = batch.encoded(model.codec)
        noise, first = batch.normal_like(clean, "noise"), batch.first(model.codec, clean)
        targets = token_targets({name: array.cpu() for name, array in batch.arrays.items()}, probed.stride)
        assert targets.known.shape[1] == math.prod(clean.shape[2:]) // math.prod(model.backbone.patch)
        held_out = k % LEAST == LEAST - 1
        done.append(Encoded(clean.cpu(), first.cpu(), batch.text.cpu(), noise.cpu(), targets, held_out))
    return done
