"""The world model: a backbone, its codec and text encoder, and the geometry heads, moved as one."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from phys4d.engine.config import Config
from phys4d.engine.resume import FROM_HERE
from phys4d.kernels.attention.backends import BACKENDS
from phys4d.models.backbone import WanBackbone, tiny_transformer
from phys4d.models.flow import noised, sample
from phys4d.models.haar import HaarCodec
from phys4d.models.heads import GeometryHeads, HeadConfig
from phys4d.models.initial import draw_transformer
from phys4d.models.interface import Codec, Grid, Prediction, TextEncoder
from phys4d.models.lora import POLICY, without
from phys4d.models.text import WordEncoder

TINY_STEPS, TINY_SHIFT = 10, 3.0


class ModelConfig(Config):
    """What turns a video backbone into a world model; width and layers are read for kind = "tiny" only.

    sampling_steps: denoising steps; sampling_shift: how far training and sampling sigmas are moved towards noise (see
    `flow.shifted`). Left out, both are the model's own: 10 and 3.0 for tiny; for a released folder WanPipeline's 50
    steps and the shift in its scheduler/. attention: the backend that computes attention in training and rollouts, a
    name that `phys4d.kernels.attention.explain` gives, or "auto", the fastest known for the shapes and the device.
    """

    kind: Literal["tiny", "wan"] = "tiny"
    width: int = Field(128, ge=32, multiple_of=32)
    layers: int = Field(4, ge=1)
    taps: tuple[Annotated[int, Field(ge=0)], ...] = Field((1, 3), min_length=1)
    heads: HeadConfig = HeadConfig()
    probe_sigma: float = Field(0.05, gt=0, lt=1)
    sampling_steps: int | None = Field(None, ge=1)
    sampling_shift: float | None = Field(None, gt=0)
    attention: Annotated[str, FROM_HERE] = "auto"

    @field_validator("attention")
    @classmethod
    def _known_backend(cls, name: str) -> str:
        if name not in ("auto", *BACKENDS):
            raise ValueError(f"expected auto, {', '.join(BACKENDS)}")
        return name

    def settled(self, steps: int, shift: float) -> "SettledConfig":
        """The same with what was left out filled in; attention "auto", since a model folder is for any machine."""
        return SettledConfig(
            **self.model_dump(exclude={"sampling_steps", "sampling_shift", "heads", "attention"}),
            heads=self.heads,
            sampling_steps=self.sampling_steps or steps,
            sampling_shift=self.sampling_shift or shift,
        )


class SettledConfig(ModelConfig):
    """The configuration of a model that exists: how it is trained and sampled is written down."""

    sampling_steps: int = Field(ge=1)
    sampling_shift: float = Field(gt=0)


@dataclass(frozen=True)
class Geometry:
    """depth [B, T, H, W] in metres; motion [B, 3, T-1, H, W] in (px, px, m)."""

    depth: Tensor
    motion: Tensor


class WorldModel(nn.Module):
    """Generates video from a first frame and a caption, and reads depth and motion off any video's latents.

    Geometry is always read with the `reinforce` adapter off: the heads were trained on those features, and a policy
    must not be able to raise its reward by bending them. seed: of the heads' initial weights.
    """

    def __init__(
        self,
        config: SettledConfig,
        grid: Grid,
        backbone: WanBackbone,
        codec: Codec,
        text: TextEncoder,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.backbone = backbone
        self.codec, self.text = codec, text
        self.heads = GeometryHeads(config.heads, backbone.width, len(config.taps), codec.channels, grid, seed)

    def predict(self, noisy: Tensor, sigma: Tensor, text: Tensor) -> Prediction:
        """One evaluation of the backbone with every adapter acting."""
        return self.backbone(noisy, sigma, text)

    def read_geometry(
        self, clean: Tensor, text: Tensor, noise: Tensor, sigma: Tensor | None = None, *, drifted: bool = False
    ) -> Geometry:
        """Depth and motion of clean latents [B, C, T', H', W'], noised to sigma [B] (default: the probe sigma).

        drifted: with the policy's adapter acting, which shows how far it has bent the features; never for a reward.
        """
        if sigma is None:
            sigma = torch.full((len(clean),), self.config.probe_sigma, device=clean.device)
        with nullcontext() if drifted else without(self.backbone.transformer, POLICY):
            noisy = noised(clean, noise, sigma)
            hidden = self.backbone(noisy, sigma, text).hidden
        return Geometry(*self.heads(hidden, noisy, sigma))

    def generate(self, first: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        """Clean latents from a first latent frame [B, C, 1, H', W'], text [B, L, D] and noise [B, C, T', H', W']."""

        def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
            return self.predict(noisy, sigma, text)

        return sample(predict, first, noise, self.config.sampling_steps, self.config.sampling_shift)


def token_stride(codec: Codec, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels under one token of the backbone."""
    return codec.temporal_stride * patch[0], codec.spatial_stride * patch[1], codec.spatial_stride * patch[2]


def create_tiny(config: ModelConfig, frames: int, height: int, width: int, seed: int) -> WorldModel:
    """A random-weighted tiny model for clips of this size: the start of the `backbone` stage, not a trained model."""
    codec, text = HaarCodec(), WordEncoder()
    with torch.random.fork_rng(devices=[]):  # torch draws weights of its own, which are replaced
        transformer = tiny_transformer(config.width, config.layers, text_width=text.width)
        draw_transformer(transformer, seed)
        backbone = WanBackbone(transformer, config.taps, "gated_clean")
        grid = Grid(frames, height, width, token_stride(codec, backbone.patch))
        return WorldModel(config.settled(TINY_STEPS, TINY_SHIFT), grid, backbone, codec, text, seed)
