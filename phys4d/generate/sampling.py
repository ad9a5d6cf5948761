"""From requests to clips: texts encoded, latents sampled, depth and motion read, video decoded, each where it fits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from phys4d.caches.source import Source
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.progress import Bar
from phys4d.engine.random import normal
from phys4d.evaluate.run import as_bytes
from phys4d.generate.opening import Opened, tiling
from phys4d.generate.request import FirstFrame, Request
from phys4d.generate.solvers import solve, solver
from phys4d.models.backbone import Precision
from phys4d.models.guidance import Predict, guided
from phys4d.models.interface import encode_first, from_bytes, latent_shape
from phys4d.models.placement import place

Offload = Literal["none", "parts", "blocks"]


@dataclass(frozen=True)
class Settings:
    """How all clips of a command are sampled.

    solver: a name in `solvers.SOLVERS`. steps: of the solver. shift: of its noise levels (`flow.shifted`). precision:
    of the transformer's matrix products. device: that computes. offload: what leaves the device while it is not used,
    "none", the "parts" (transformer, codec), or the transformer's "blocks" one by one. vae_tiling: decode
    a part of each frame at a time (`use_tiling` of the codec).
    """

    solver: str
    steps: int
    shift: float
    precision: Precision
    device: torch.device
    offload: Offload = "none"
    vae_tiling: bool = False


@dataclass(frozen=True)
class Clip:
    """What was generated: video uint8 [T, H, W, 3]; depth [T, H, W] in metres and motion [3, T-1, H, W] in (px, px, m),
    fp32, None for a model without heads."""

    video: np.ndarray
    depth: np.ndarray | None
    motion: np.ndarray | None

    def first(self, frames: int | None) -> "Clip":
        """The first frames of it; None: all."""
        if frames is None:
            return self
        depth = None if self.depth is None else self.depth[:frames]
        motion = None if self.motion is None else self.motion[:, : frames - 1]
        return Clip(self.video[:frames], depth, motion)


def check_prompts(opened: Opened, requests: Sequence[Request]) -> None:
    """Raises UserError that names the clip, for a prompt that the text encoder would cut off."""
    _, encoder = opened.source.encoders()
    for request in requests:
        for what, prompt in (("prompt", request.prompt), ("negative", request.negative)):
            try:
                opened.spec.check_caption(prompt)
                if opened.spec.encoders is not None:
                    opened.spec.encoders.check_prompt(encoder, prompt)
            except ValueError as error:
                raise UserError(f"{request.name}: {what}: {error}") from None


@torch.no_grad()
def encoded_texts(source: Source, texts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Tokens [1, L, D] of each text, fp32 on the CPU; the encoder's memory is given back.

    source: of the encoder. texts: may repeat. device: that computes.
    """
    _, encoder = source.encoders()
    if isinstance(encoder, nn.Module):
        encoder.to(device)
    return {text: encoder([text]).cpu() for text in dict.fromkeys(texts)}


class Sampler:
    """A model on its device.

    opened: the model, whose weights are read here. settings: see there.
    """

    def __init__(self, opened: Opened, settings: Settings) -> None:
        self.opened, self.settings = opened, settings
        self.model = opened.model.eval()
        self.model.backbone.precision = settings.precision
        if settings.vae_tiling:
            tiling(self.model.codec)()
        start = settings.device if settings.offload == "none" else torch.device("cpu")
        self.model.use_attention("auto", Parallel.alone(start))
        place(self.model, Parallel.alone(start))
        if settings.offload == "blocks":
            self._stream_blocks()

    def _stream_blocks(self) -> None:
        """The weights of each block are copied to the device before it is evaluated, and freed behind it."""
        from diffusers.hooks import apply_group_offloading

        transformer, device = self.model.backbone.transformer, self.settings.device
        apply_group_offloading(
            transformer, onload_device=device, offload_device=torch.device("cpu"), offload_type="block_level",
            num_blocks_per_group=1, use_stream=device.type == "cuda",
        )  # fmt: skip
        self.model.heads.to(device)

    @contextmanager
    def _resident(self, *modules: Any) -> Iterator[None]:
        """Modules on the device within the context, with "parts" and "blocks" only there."""
        moved = [m for m in modules if self.settings.offload != "none" and isinstance(m, nn.Module)]
        for module in moved:
            module.to(self.settings.device)
        try:
            yield
        finally:
            for module in moved:
                module.to("cpu")

    @torch.no_grad()
    def first_latents(self, frames: Sequence[FirstFrame]) -> list[Tensor | None]:
        """What the codec gives of each first frame, [1, C, F, H', W'], on the CPU; None where there is no picture."""
        codec = self.model.codec
        with self._resident(codec):
            return [None if frame.picture is None else self._encoded(frame.picture) for frame in frames]

    def _encoded(self, picture: np.ndarray) -> Tensor:
        video = from_bytes(torch.tensor(picture)[None, None].to(self.settings.device))
        return encode_first(self.model.codec, video, self.opened.size[0]).cpu()

    @torch.no_grad()
    def clip(self, request: Request, first: Tensor | None, texts: dict[str, Tensor], bar: Bar) -> Clip:
        """One clip.

        request: its prompts, seed and guidance. first: of `first_latents`. texts: tokens of its prompts
        (`encoded_texts`). bar: advanced by one for each step.
        """
        device, codec = self.settings.device, self.model.codec
        first, text = None if first is None else first.to(device), texts[request.prompt].to(device)
        shape = (1, *latent_shape(codec, self.opened.size))
        noise, probe = (normal(shape, request.seed, "generate", use).to(device) for use in ("start", "probe"))
        streamed = self.settings.offload == "blocks"
        with self._resident(*(() if streamed else (self.model.backbone, self.model.heads))):
            predict = self._predict(text, first, bar)
            if request.guidance > 1:
                away = self._away(request, text, texts)
                predict = guided(predict, self._predict(away, first, None), request.guidance)
            held = noise[:, :, :0] if first is None else first[:, :, : self.model.backbone.held]
            latents = solve(predict, held, noise, self._solver())
            geometry = self.model.read_geometry(latents, text, probe, first=first) if self.opened.has_heads else None
        with self._resident(codec):
            video = as_bytes(codec.decode(latents)[0].clamp(-1, 1))
        if geometry is None:
            return Clip(video, None, None)
        return Clip(video, geometry.depth[0].float().cpu().numpy(), geometry.motion[0].float().cpu().numpy())

    def _away(self, request: Request, text: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Tokens that the guidance leads away from; without a negative prompt what stands for no caption here."""
        none = None if request.negative else self.model.backbone.unconditional(text)
        return texts[request.negative].to(text) if none is None else none

    def _predict(self, text: Tensor, first: Tensor | None, bar: Bar | None) -> Predict:
        def predict(noisy: Tensor, sigma: Tensor) -> Any:
            prediction = self.model.predict(noisy, sigma, text, first)
            if bar is not None:
                bar.advance()
            return prediction

        return predict

    def _solver(self) -> Any:
        settings, backbone = self.settings, self.model.backbone
        return solver(
            settings.solver, self.opened.sampling, settings.steps, settings.shift,
            lambda steps: backbone.sigmas(steps, settings.shift).tolist(),
        )  # fmt: skip
