"""Latte: attention within frames and within places, on tokens that the model has rearranged into rows.

The model's forward turns [B, T, HW, C] into [B * T, HW, C] before a spatial block and into [B * HW, T, C] before a
temporal one, and a processor sees nothing else: both are `Full` attention of many rows here. Without touching that
forward the rearrangement, which `Spatial` and `Temporal` would save, stays.

Source of the computation: diffusers, models/attention_processor.py (AttnProcessor2_0).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.processor import Processor, Setting, after, heads_of, processor_refusal


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
        if attention_mask is not None:
            why = "an attention mask, of which the model does not say that it is a number of keys"
            return self.pass_on(why, attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (heads_of(x, attn) for x in (attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)))
        return after(attn, attention(q, k, v, backend=self.setting.backend), q.dtype)


def latte(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a LatteTransformer3DModel: see `swap.Family`."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    def replacement(path: str, attn: Any) -> Processor | str:
        why = processor_refusal(attn, AttnProcessor2_0)
        if why:
            return why
        extras = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "residual_connection")
        if any(getattr(attn, extra) for extra in extras) or attn.rescale_output_factor != 1:
            return "an attention with a norm, a residual or a factor of its own"
        if path.endswith("attn2"):
            swaps = "attention to text"
        else:
            swaps = "attention of places" if ".temporal_transformer_blocks." in f".{path}" else "attention of frames"
        return LatteProcessor(path, attn.processor, setting, swaps)

    return replacement
