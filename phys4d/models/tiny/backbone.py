"""The small backbone that trains in minutes on a CPU: a Wan transformer that moves parts of the first frame."""

import math

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from phys4d.engine.random import normal
from phys4d.models.flow import schedule
from phys4d.models.initial import draw_layers
from phys4d.models.interface import Prediction
from phys4d.models.tiny.copying import CopyGate
from phys4d.models.tiny.haar import HaarCodec
from phys4d.models.wan.backbone import WanBackbone

PATCH = (1, 2, 2)
_CHANGE = 0.1  # of the range of 2: a pixel that differs this much from frame 0 counts as changed
_WEIGHT = 3.0


class TinyBackbone(WanBackbone):
    """The transformer also sees the first frame's latents beside every latent frame, and predicts the clean video as a
    mixture, by a gate per pixel, of that first frame and of patches moved from it (`CopyGate`)."""

    def __init__(self, transformer: WanTransformer3DModel, taps: tuple[int, ...]) -> None:
        super().__init__(transformer, taps)
        self.gate = CopyGate()

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        timesteps = self.token_timesteps(noisy.shape, sigma)
        inputs = torch.cat([noisy, noisy[:, :, :1].expand_as(noisy)], 1)
        return self.transformer(inputs, timesteps, text, return_dict=False)[0]

    def interpret(self, output: Tensor, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        clean = self.gate(output, noisy[:, :, :1])
        return (noisy - clean) / sigma.view(-1, 1, 1, 1, 1), clean

    def sigmas(self, steps: int, shift: float) -> Tensor:
        return schedule(steps, shift)

    def diffusion_loss(self, prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mean squared error of the pixels, weighted 1, plus 3 where the true clip differs from its first frame, plus 3
        where the predicted one does; unweighted, most of a small clip is a still background and the loss is blind to
        what moves."""
        to_blocks = self.gate.codec.to_blocks
        first = to_blocks(clean[:, :, :1])
        true, predicted = to_blocks(clean[:, :, 1:]), to_blocks(prediction.clean[:, :, 1:])
        with torch.no_grad():
            weight = 1 + _WEIGHT * sum(
                ((video - first).abs().amax(-2, keepdim=True) > _CHANGE).float() for video in (true, predicted)
            )
        return ((predicted - true).square() * weight).mean()


def tiny_transformer(
    width: int = 128, layers: int = 4, head_dim: int = 32, text_width: int = 64
) -> WanTransformer3DModel:
    """The transformer of `TinyBackbone` on Haar latents, with torch's own random weights."""
    return WanTransformer3DModel(
        patch_size=PATCH,
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


@torch.no_grad()
def draw_transformer(transformer: WanTransformer3DModel, seed: int) -> None:
    """Draws the weights as the class does, from noise keyed by `seed` and their names: layers by torch's default,
    modulation tables normal with deviation 1 / sqrt(width); norms stay at 1 and 0."""
    draw_layers(transformer, seed, "transformer")
    for name, parameter in transformer.named_parameters():
        if name.endswith("scale_shift_table"):
            noise = normal(parameter.shape, seed, "transformer", name)
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
