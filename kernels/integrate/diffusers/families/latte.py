"""Latte: attention within frames and within places, on tokens that the model has rearranged into rows.

The model's forward turns [B, T, HW, C] into [B * T, HW, C] before a spatial block and into [B * HW, T, C] before a
temporal one, and a processor sees nothing else: both are `Full` attention of many rows here. Without touching that
forward the rearrangement, which `Spatial` and `Temporal` would save, stays.
"""

from collections.abc import Callable
from typing import Any

import torch

from phys4d.kernels.integrate.diffusers.families.drawn import numbers
from phys4d.kernels.integrate.diffusers.families.plain import plain_processor
from phys4d.kernels.integrate.diffusers.processor import Processor
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting


def latte(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a LatteTransformer3DModel."""
    def replacement(path: str, attn: Any) -> Processor | str:
        if path.endswith("attn2"):
            swaps = "attention to text"
        else:
            swaps = "attention of places" if ".temporal_transformer_blocks." in f".{path}" else "attention of frames"
        return plain_processor(path, attn, setting, swaps)

    return replacement


def example() -> tuple[Any, dict[str, Any]]:
    """A tiny random model and the arguments of one call."""
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=16, attention_bias=True, sample_size=4, patch_size=2, norm_type="ada_norm_single",
        norm_elementwise_affine=False, activation_fn="gelu-approximate", caption_channels=10, video_length=3,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 4, 3, 4, 4, seed=1),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": numbers(2, 5, 10, seed=2),
    }
    return model, call


LATTE = Family(
    "diffusers.LatteTransformer3DModel",
    latte,
    parts={"attention": "attention of frames, of places and to text"},
    examples={"latte": example},
)
