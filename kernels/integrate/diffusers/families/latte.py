"""Latte: attention within frames and within places, on tokens that the model has rearranged into rows.

The model's forward turns [B, T, HW, C] into [B * T, HW, C] before a spatial block and into [B * HW, T, C] before a
temporal one, and a processor sees nothing else: both are `Full` attention of many rows here. Without touching that
forward the rearrangement, which `Spatial` and `Temporal` would save, stays.

Source of the computation: diffusers, models/attention_processor.py (AttnProcessor2_0).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.drawn import numbers
from phys4d.kernels.integrate.diffusers.processor import Processor, after, heads_of, processor_refusal
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting

_EXTRAS = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "residual_connection")


class LatteProcessor(Processor):
    """Attention of rows to themselves or to the text: [rows, S, C] to [rows, S, C]."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        why = unfit(hidden_states, encoder_hidden_states) or _extras(attn)
        if attention_mask is not None:
            why = "an attention mask, of which the model does not say that it is a number of keys"
        if why:
            return self.pass_on(why, attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (heads_of(x, attn) for x in (attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)))
        return after(attn, attention(q, k, v, backend=self.setting.backend), q.dtype)


def _extras(attn: Any) -> str | None:
    if any(getattr(attn, extra) for extra in _EXTRAS) or attn.rescale_output_factor != 1:
        return "an attention with a norm, a residual or a factor of its own"
    return None


def latte(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a LatteTransformer3DModel."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    def replacement(path: str, attn: Any) -> Processor | str:
        why = processor_refusal(attn, AttnProcessor2_0) or _extras(attn)
        if why:
            return why
        if path.endswith("attn2"):
            swaps = "attention to text"
        else:
            swaps = "attention of places" if ".temporal_transformer_blocks." in f".{path}" else "attention of frames"
        return LatteProcessor(path, attn.processor, setting, swaps)

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
