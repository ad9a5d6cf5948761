"""The backbone on diffusers' WanTransformer3DModel: Wan2.2-TI2V as released, and the small configuration `tiny`."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Literal

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from phys4d.kernels.attention import explain
from phys4d.kernels.integrate.diffusers import Accelerated, accelerate
from phys4d.models.copying import CopyGate
from phys4d.models.flow import expand, keep_first
from phys4d.models.haar import HaarCodec
from phys4d.models.interface import Prediction

Prediction_kind = Literal["velocity", "gated_clean"]
Precision = Literal["fp32", "bf16"]
TINY_PATCH = (1, 2, 2)

# Under autocast the norms of queries and keys keep their fp32 weights, as all trained weights do; torch then takes its
# unfused kernel, which is right, and says so.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight: input dtype = c10::BFloat16, weight dtype")


class WanBackbone(nn.Module):
    """Evaluates a Wan transformer with one timestep per frame, zero on the clean first latent frame (Wan2.2-TI2V).

    Attention, norm and rotation of queries and keys, and gate, residual, norm and modulation between the layers are
    computed by `phys4d.kernels`; time is embedded once for each frame.

    prediction "velocity": the transformer's output is the velocity, as in the released models.
    prediction "gated_clean": the transformer also sees the first frame's latents beside every latent frame and predicts
    the clean video as a mixture, by a gate per pixel, of that first frame and of patches moved from it (`CopyGate`).
    taps: indices of the blocks whose output tokens are returned.

    Attribute precision: "bf16" computes the transformer's matrix products and attention in bfloat16, from fp32 weights
    and with fp32 gradients, alone or sharded. What conditions it on time (timesteps, their embedding and modulation)
    and the RoPE tables stay in fp32, and so do the returned tensors: a rounded timestep of 701.3 would be 700.
    """

    def __init__(self, transformer: WanTransformer3DModel, taps: tuple[int, ...], prediction: Prediction_kind) -> None:
        super().__init__()
        bad = [k for k in taps if not 0 <= k < len(transformer.blocks)]
        if bad:
            raise ValueError(f"taps {bad}: the transformer has blocks 0 to {len(transformer.blocks) - 1}")
        self.transformer = transformer
        self.precision: Precision = "fp32"
        embedder = transformer.condition_embedder
        embedder.forward = _in_full_precision(embedder.forward)
        self.accelerated = accelerate(transformer, timestep_per="frame")
        self.taps = taps
        self.prediction = prediction
        self.patch: tuple[int, int, int] = tuple(transformer.config.patch_size)
        self.gate = CopyGate() if prediction == "gated_clean" else None
        self._hidden: dict[int, Tensor] = {}
        for k in taps:
            transformer.blocks[k].register_forward_hook(self._keep(k))

    def _keep(self, k: int):
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            self._hidden[k] = output.float()

        return hook

    def use_attention(self, backend: str) -> Accelerated:
        """From here on attention is computed by this backend of `phys4d.kernels.attention`: "auto" or a name."""
        self.accelerated.undo()
        self.accelerated = accelerate(self.transformer, backend=backend, timestep_per="frame")
        return self.accelerated

    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, str]:
        """Which backend computes attention among the video's tokens and from them to the text, and why.

        ValueError where the backend that was asked for by name cannot.
        """
        config = self.transformer.config
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        head = torch.empty(config.attention_head_dim, dtype=dtype, device=device, requires_grad=True)
        q, text = (head.expand(1, n, config.num_attention_heads, -1) for n in (tokens, text_tokens))
        backend = self.accelerated.backend
        return {name: str(explain(q, k, k, backend=backend)) for name, k in (("self", q), ("cross", text))}

    @property
    def width(self) -> int:
        """Channels of a hidden token."""
        return self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim

    def token_timesteps(self, shape: torch.Size, sigma: Tensor) -> Tensor:
        """[B, tokens] in 0..1000, fp32: 1000 sigma, and 0 for the tokens of the first latent frame."""
        t, h, w = (n // p for n, p in zip(shape[2:], self.patch, strict=True))
        steps = (1000 * sigma.float())[:, None].repeat(1, t * h * w)
        steps[:, : h * w] = 0
        return steps

    def forward(self, noisy: Tensor, sigma: Tensor, text: Tensor) -> Prediction:
        """noisy [B, C, T', H', W'] with a clean first latent frame, sigma [B] in (0, 1], text [B, L, D] ->
        Prediction."""
        first = noisy[:, :, :1]
        inputs = noisy if self.gate is None else torch.cat([noisy, first.expand_as(noisy)], 1)
        timesteps = self.token_timesteps(noisy.shape, sigma)
        with _autocast(noisy.device.type, enabled=self.precision == "bf16"):
            output = self.transformer(inputs, timesteps, text, return_dict=False)[0].float()
        s = expand(sigma)
        if self.gate is None:
            velocity = keep_first(output, torch.zeros_like(first))
            clean = noisy - s * velocity
        else:
            clean = self.gate(output, first)
            velocity = (noisy - clean) / s
        hidden = tuple(self._hidden[k] for k in self.taps)
        self._hidden.clear()
        return Prediction(velocity, clean, hidden)


def _autocast(device_type: str, *, enabled: bool) -> AbstractContextManager[Any]:
    """bf16 autocast on or off; without its cache, which would hold the gathered weights of all blocks at once."""
    if not enabled and not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def _in_full_precision(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same, computed in the dtype of its inputs and weights even under autocast."""

    @wraps(forward)
    def without_autocast(timestep: Tensor, *inputs: Any, **options: Any) -> Any:
        with _autocast(timestep.device.type, enabled=False):
            return forward(timestep, *inputs, **options)

    return without_autocast


def tiny_transformer(
    width: int = 128, layers: int = 4, head_dim: int = 32, text_width: int = 64
) -> WanTransformer3DModel:
    """The small configuration for `gated_clean` on Haar latents: random weights, to be trained by the backbone
    stage."""
    return WanTransformer3DModel(
        patch_size=TINY_PATCH,
        num_attention_heads=width // head_dim,
        attention_head_dim=head_dim,
        in_channels=2 * HaarCodec.channels,
        out_channels=CopyGate.channels,
        text_dim=text_width,
        freq_dim=64,
        ffn_dim=4 * width,
        num_layers=layers,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
