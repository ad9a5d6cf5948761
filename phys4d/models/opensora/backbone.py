"""Open-Sora 1.2 as a backbone: its velocity is data - noise, its timesteps are those of a clip's size."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from phys4d.kernels.attention import Spatial, Temporal, explain
from phys4d.kernels.integrate.diffusers import gathered
from phys4d.models.backbone import Backbone
from phys4d.models.flow import shifted
from phys4d.models.opensora.codec import CHUNK, OpenSoraCodec
from phys4d.models.opensora.text import lengths_of
from phys4d.models.opensora.transformer import STDiT3, by_frame

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup

STEPS = 30
GUIDANCE = 7.0
FPS = 24.0
SIZE = (33, 480, 848)  # 480p in whole tokens; the longest clip that the codec divides as the public code does
_SQUARE = 512 * 512  # pixels of an image whose timesteps are not shifted
_LEAST_SIGMA = 0.02  # in training: below it velocity is nearly all rounding


def published_shift(size: tuple[int, int, int]) -> float:
    """How far sigmas of clips of a size (frames, height, width) are moved towards noise, as of `flow.shifted`.

    sqrt(height * width / 512^2) * sqrt(frames), where frames counts 5 for every 17 whole ones (`timestep_transform` of
    the public opensora/schedulers/rf/rectified_flow.py); below 17, where that is 0, the latent frames are counted.
    """
    frames, height, width = size
    latents = frames // CHUNK * 5 or (frames - 1) // OpenSoraCodec.temporal_stride + 1
    return math.sqrt(height * width / _SQUARE) * math.sqrt(latents)


class OpenSoraBackbone(Backbone):
    """Evaluates STDiT3 with the first latent frame clean at timestep 0, as it was trained to be given frames of a clip.

    The height and width of a clip, which condition it, are those of its latents times 8. Attribute fps: frames a second
    that it is conditioned on, 24 as its samples are published; the clips' own are not read.

    A block is what attends within frames, or what attends over time: they alternate, the first attends within frames.
    """

    lora_targets = (
        "attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj", "mlp.fc1", "mlp.fc2"
    )  # fmt: skip
    full_precision = ("t_embedder", "fps_embedder", "t_block")

    def __init__(self, transformer: STDiT3, taps: tuple[int, ...]) -> None:
        super().__init__(transformer, taps)
        self.patch, self.width = transformer.patch, transformer.config.hidden_size
        self.heads = transformer.config.num_heads
        self.fps = FPS
        self._grid: tuple[int, int, int] | None = None  # of the tokens in the last evaluation

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.blocks

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None = None) -> Tensor:
        batch, channels, frames, height, width = noisy.shape
        t, h, w = (n // p for n, p in zip((frames, height, width), self.patch, strict=True))
        self._grid = (t, h, w)
        noised = torch.ones(batch, t, dtype=torch.bool, device=noisy.device)
        noised[:, : self.held] = False
        fps = torch.full_like(sigma, self.fps, dtype=torch.float32)
        space = OpenSoraCodec.spatial_stride
        pixels = (space * height, space * width)
        output = self.transformer(noisy, 1000 * sigma.float(), text, lengths_of(text), fps, pixels, noised)
        return -output[:, :channels]

    def unconditional(self, text: Tensor) -> Tensor:
        """What stands for no caption beside these, in guidance and where training drops captions: the learned tokens,
        as many as each caption has, zeros behind them. text: [B, L, D]."""
        learned = self.transformer.y_embedder.y_embedding
        if hasattr(learned, "full_tensor"):  # sharded, and not gathered by an evaluation
            learned = learned.full_tensor()
        null = learned[: text.shape[1]].detach().to(text)
        behind = torch.arange(text.shape[1], device=text.device) >= lengths_of(text)[:, None]
        return null.expand(len(text), -1, -1).masked_fill(behind[..., None], 0.0)

    def training_sigma(self, u: Tensor, shift: float) -> Tensor:
        """Uniform u [B] -> noise levels [B] to train generation at: logit-normal, then shifted, from 0.02."""
        return shifted(torch.special.ndtri(u).sigmoid(), shift).clamp_min(_LEAST_SIGMA)

    def use_attention(
        self, backend: str, group: "ProcessGroup | None" = None, context: Literal["auto", "ulysses", "ring"] = "auto"
    ) -> None:
        self.transformer.group = group
        for block in self.transformer.blocks:
            block.backend, block.context = backend, context

    def whole(self, k: int, tokens: Tensor) -> Tensor:
        if self._grid is None or (parts := self.transformer.parts(self._grid)) is None:
            return tokens
        return by_frame(gathered, tokens, self._grid[0], parts)

    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, Any]:
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        head = torch.empty(self.width // self.heads, dtype=dtype, device=device, requires_grad=True)
        q, text = (head.expand(1, n, self.heads, -1) for n in (tokens, text_tokens))
        backend = self.transformer.blocks[0].backend
        chosen: dict[str, Any] = {"cross": str(explain(q, text, text, key_lengths=[text_tokens], backend=backend))}
        known = self._grid is not None and math.prod(self._grid) == tokens
        for name, pattern, alone in (("spatial", Spatial(), (1, 1, tokens)), ("temporal", Temporal(), (tokens, 1, 1))):
            choice = explain(q, q, q, grid=self._grid if known else alone, pattern=pattern, backend=backend)
            chosen[name] = str(choice) if known else "as the frames of a clip decide, once one was evaluated"
        return chosen | {"left": {}}
