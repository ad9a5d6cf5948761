"""The backbone of `small`: a Wan transformer that predicts velocity, and sees the first frame beside every frame."""

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from phys4d.models.flow import schedule
from phys4d.models.wan.backbone import WanBackbone

PATCH = (1, 2, 2)
_HEAD_DIM = 64


class SmallBackbone(WanBackbone):
    """Rectified flow as `WanBackbone` has it: the first latent frame is held clean, at timestep 0. It also stands,
    channel beside channel, behind every noisy frame, as the image does in Wan2.1's image to video."""

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        inputs = torch.cat([noisy, noisy[:, :, :1].expand_as(noisy)], 1)
        return self.transformer(inputs, self.token_timesteps(noisy.shape, sigma), text, return_dict=False)[0]

    def sigmas(self, steps: int, shift: float) -> Tensor:
        return schedule(steps, shift)


def small_transformer(channels: int, width: int, layers: int, text_width: int) -> WanTransformer3DModel:
    """The transformer on latents of so many channels, with torch's own random weights; heads have 64 channels, or the
    next more that divide the width."""
    heads = max(1, width // _HEAD_DIM)
    while width % (2 * heads):
        heads -= 1
    return WanTransformer3DModel(
        patch_size=PATCH,
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=2 * channels,
        out_channels=channels,
        text_dim=text_width,
        freq_dim=64,
        ffn_dim=4 * width,
        num_layers=layers,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )

