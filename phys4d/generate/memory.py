"""The memory that generating one clip takes on a device, counted on tensors without values: no weights, no GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.engine.costs.memory import Peak, uncollected, without_values
from phys4d.engine.errors import UserError
from phys4d.generate.opening import Size, kind_of, model_of, tiling, wanted_size
from phys4d.models.backbone import Precision
from phys4d.models.base_weights import hold_frozen_in_bf16
from phys4d.models.card import CARD, base_of, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.heads import GeometryHeads
from phys4d.models.initial import nothing_drawn
from phys4d.models.interface import Grid, check_size, encode_first, first_frames, latent_shape
from phys4d.models.registry import MODELS

GIB = 1 << 30


@dataclass(frozen=True)
class Memory:
    """Bytes. text, transformer, codec, heads: weights. block: of the largest block. evaluate, read, encode, decode: the
    most that an evaluation of the transformer, reading depth and motion, encoding the first frame, and decoding
    allocate beside weights."""

    text: int
    transformer: int
    codec: int
    heads: int
    block: int
    evaluate: int
    read: int
    encode: int
    decode: int

    def most(self, offload: str) -> int:
        """The most that exists on the device at once, with this value of --offload. With "blocks" two of them are
        there, since the next is copied while one is evaluated."""
        sampling = self.transformer + self.heads + max(self.evaluate, self.read)
        if offload == "none":
            weights = self.transformer + self.heads + self.codec
            return max(self.text, weights + max(self.evaluate, self.read, self.encode, self.decode))
        if offload == "blocks":
            sampling = 2 * self.block + self.heads + max(self.evaluate, self.read)
        return max(self.text, sampling, self.codec + max(self.encode, self.decode))

    def lines(self) -> list[str]:
        """A table for people, in GiB."""
        parts = ("text", "transformer", "codec", "heads", "evaluate", "read", "encode", "decode")
        counted = [f"{name} {getattr(self, name) / GIB:.1f}" for name in parts]
        most = [f"--offload {name}: {self.most(name) / GIB:.1f}" for name in ("none", "parts", "blocks")]
        return [f"weights, GiB: {', '.join(counted[:4])}", f"beside them: {', '.join(counted[4:])}", *most]


def count_memory(
    model: str, frames: int | None, size: tuple[int, int] | None, precision: Precision, *, tiled: bool
) -> tuple[Size, Memory]:
    """The size of a clip, and what generating it takes; tens of seconds for a model of 5B.

    model: a run folder, a model folder, or a published model, of whose folder only config.json files are read, or the
    name of a published model. frames, size: of the clip; None: the model's own. precision: of the transformer. tiled:
    with --vae-tiling.

    What an operator takes inside (workspaces of convolutions) and the allocator's gaps are not seen.
    """
    named = next((spec for spec in MODELS.values() if model in spec.released), None)
    folder = None if named is not None else model_of(Path(model))
    config, heads_of = ModelConfig(kind=named.kind if named else "tiny", taps=(0,)), None
    if folder is None:
        assert named is not None
        own = named.sampling(model).size
    elif (folder / CARD).is_file():
        card = read_card(folder)
        config, own, heads_of, folder = card.model, card.size, card.model.heads, base_of(card, folder)
    else:
        spec = kind_of(folder)
        config, own = ModelConfig(kind=spec.kind, taps=(0,)), spec.sampling(folder).size
    clip, spec = wanted_size(own, frames, size), MODELS[config.kind]
    if spec.bare is None:
        raise UserError(f'--dry-run: models of the kind "{spec.kind}" cannot be counted')
    bare = spec.bare(config, model if folder is None else folder)
    try:
        bare.check_size(clip)
        check_size(clip, bare.token_stride)
    except ValueError as error:
        raise UserError(f"--frames {clip[0]} --size {clip[1]}x{clip[2]}: {error}") from None
    with nothing_drawn(), torch.random.fork_rng(devices=[]):
        parts = bare.build(bare.layers, config.taps, 0)
        heads = None
        if heads_of is not None:
            channels, grid = parts.codec.channels, Grid(*clip, bare.token_stride)
            heads = GeometryHeads(heads_of, parts.backbone.width, len(config.taps), channels, grid)
    return clip, _counted(parts, heads, clip, precision, tiled)


def _counted(parts: Any, heads: nn.Module | None, clip: Size, precision: Precision, tiled: bool) -> Memory:
    backbone, codec = parts.backbone.eval().requires_grad_(False), parts.codec
    backbone.precision = precision
    if precision == "bf16":
        hold_frozen_in_bf16(backbone.transformer, backbone.full_precision)
    if tiled:
        tiling(codec)()
    modules = [module for module in (backbone, codec, heads) if isinstance(module, nn.Module)]
    weights = {id(module): _bytes(module) for module in modules}
    block = max(_bytes(block) for block in backbone.blocks)
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # a backbone may hold tables of noise levels
    for module in modules:
        without_values(module.requires_grad_(False), mode)
    known = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def most(run: Callable[[], object]) -> int:
        peak = Peak([*known, latents, first, text, sigma])
        with peak:
            run()
        return peak.most

    with mode, torch.no_grad(), uncollected():
        latents, sigma = torch.empty(1, *latent_shape(codec, clip)), torch.empty(1)
        _, channels, frames, height, width = latents.shape
        first = torch.empty(1, channels, first_frames(codec, (frames, height, width)), height, width)
        text = torch.empty(1, parts.text.tokens, parts.text.width)

        def read() -> Any:
            hidden = backbone.hidden(latents, sigma, text, first)
            return None if heads is None else heads(hidden, latents, sigma)

        evaluate, reading = most(lambda: backbone(latents, sigma, text, first)), most(read)
        reads_image, image = backbone.held > 0 or codec.image_apart, torch.empty(1, 3, 1, *clip[1:])
        encode = most(lambda: encode_first(codec, image, clip[0])) if reads_image else 0
        decode = most(lambda: codec.decode(latents))
    text_bytes = _bytes(parts.text) if isinstance(parts.text, nn.Module) else 0
    return Memory(
        text_bytes, weights[id(backbone)], weights.get(id(codec), 0), weights.get(id(heads), 0), block, evaluate,
        0 if heads is None else reading, encode, decode,
    )  # fmt: skip


def _bytes(module: nn.Module) -> int:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
