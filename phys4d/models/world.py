"""The world model: a backbone, its codec and text encoder, and the geometry heads, moved as one."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.config import ModelConfig, ResolvedConfig
from phys4d.models.division import check_division
from phys4d.models.flow import noised, sample
from phys4d.models.heads import GeometryHeads
from phys4d.models.interface import Grid, Prediction
from phys4d.models.lora import POLICY, without
from phys4d.models.registry import MODELS
from phys4d.models.spec import Parts, default_shift


@dataclass(frozen=True)
class Geometry:
    """depth [B, T, H, W] in metres; motion [B, 3, T-1, H, W] in (px, px, m)."""

    depth: Tensor
    motion: Tensor


class WorldModel(nn.Module):
    """Generates video from a first frame and a caption, and reads depth and motion off any video's latents.

    Geometry is always read with the `reinforce` adapter off: the heads were trained on those features, and a policy
    must not be able to raise its reward by bending them.

    config: how it is trained and sampled. grid: sizes of a clip. parts: backbone, codec and text encoder. seed: of the
    heads' initial weights.
    """

    def __init__(self, config: ResolvedConfig, grid: Grid, parts: Parts, seed: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.backbone, self.codec, self.text = parts.backbone, parts.codec, parts.text
        self.weights = parts.weights
        width, channels = self.backbone.width, self.codec.channels
        self.heads = GeometryHeads(config.heads, width, len(config.taps), channels, grid, seed)

    @property
    def own_codec(self) -> nn.Module | None:
        """The codec as a module of diffusers, where it is trained here (`Codec.own`)."""
        if not self.codec.own:
            return None
        assert isinstance(self.codec, nn.Module)
        return self.codec

    def use_attention(self, backend: str, parallel: Parallel) -> None:
        """From here on attention is computed by this backend, and the tokens of a clip are divided over the context
        group of `parallel` where it has one. UserError where the backbone cannot divide them."""
        if parallel.context is not None:
            by_frame = MODELS[self.config.kind].divides_frames
            check_division(parallel.config, self.backbone.heads, self.grid.tokens, by_frame)
        try:
            self.backbone.use_attention(backend, parallel.context, parallel.config.context_method)
            self.heads.group = parallel.context
        except ValueError as error:
            raise UserError(f"parallel.context: {error}") from None

    def predict(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None = None) -> Prediction:
        """One evaluation of the backbone with every adapter acting; arguments as of `Backbone.forward`."""
        return self.backbone(noisy, sigma, text, first)

    def noised(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'] at noise level sigma [B], as the backbone takes them."""
        return noised(clean, noise, sigma, self.backbone.held)

    def read_geometry(
        self, clean: Tensor, text: Tensor, noise: Tensor, sigma: Tensor | None = None, *, first: Tensor | None = None,
        drifted: bool = False,
    ) -> Geometry:  # fmt: skip
        """Depth and motion of clean latents [B, C, T', H', W'], noised to sigma [B] (default: the probe sigma).

        text: [B, L, D] tokens; noise: as clean, standard normal; first: as of `Backbone.forward`; drifted: with the
        policy's adapter acting, which shows how far it has bent the features; never for a reward.
        """
        if sigma is None:
            sigma = torch.full((len(clean),), self.config.probe_sigma, device=clean.device)
        with nullcontext() if drifted else without(self.backbone.transformer, POLICY):
            noisy = self.noised(clean, noise, sigma)
            hidden = self.backbone.hidden(noisy, sigma, text, first)
        return Geometry(*self.heads(hidden, noisy, sigma))

    def training_sigma(self, u: Tensor) -> Tensor:
        """Uniform u [B] -> noise levels [B] to train generation at."""
        return self.backbone.training_sigma(u, self.config.sampling_shift)

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """Noise levels of sampling in so many steps, from 1 to 0."""
        return tuple(self.backbone.sigmas(steps, self.config.sampling_shift).tolist())

    def generate(self, first: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        """Clean latents from `first` as of `Backbone.forward`, text [B, L, D] and noise [B, C, T', H', W']."""

        def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
            return self.predict(noisy, sigma, text, first)

        return sample(predict, first[:, :, : self.backbone.held], noise, self.sigmas(self.config.sampling_steps))


def create_model(config: ModelConfig, frames: int, height: int, width: int, seed: int) -> WorldModel:
    """A new model of `config.kind` with random weights, for clips of this size: untrained, and no use before it is."""
    spec = MODELS[config.kind]
    assert spec.create is not None, config.kind
    outline = spec.outline(config, None)
    grid = Grid(frames, height, width, outline.token_stride)
    resolved = config.resolved(outline.steps, default_shift(outline, (frames, height, width)))
    with torch.random.fork_rng(devices=[]):  # torch draws weights too when modules are made; they are replaced
        return WorldModel(resolved, grid, spec.create(config, config.taps, seed), seed)
