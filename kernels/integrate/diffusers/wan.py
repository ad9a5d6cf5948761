"""Wan's attention: norm across all heads, rotation of interleaved pairs, cross-attention to text and to an image.

Source of the computation: diffusers, models/transformers/transformer_wan.py (WanAttnProcessor).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import qk_norm_rope
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    Setting,
    after,
    heads_of,
    norm_of,
    norm_refusal,
    odd_heads,
    processor_refusal,
)

_TEXT_TOKENS = 512  # diffusers takes the last 512 tokens for the text, those before it for the image


class WanProcessor(Processor):
    """Self-attention with norm and rotation, or cross-attention with the norm, of a WanAttention."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        from diffusers.models.transformers.transformer_wan import _get_added_kv_projections, _get_qkv_projections

        divided = self.setting.divided
        across: dict[str, Any] = {}  # how attention goes across ranks
        arguments = (attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        if attention_mask is not None:
            return self.pass_on("an attention mask", *arguments)
        rope, grid, start = None, (1, 1, 1), 0
        if rotary_emb is not None:
            count = divided.parts.count if divided else hidden_states.shape[1]
            why = self.setting.rotation.refusal(rotary_emb, count)
            if why or encoder_hidden_states is not None:
                return self.pass_on(why or "a rotation of text", *arguments)
            rope, grid = self.setting.rotation.rope(rotary_emb, hidden_states.device)
            if divided:
                start, across = divided.parts.own.start, {"group": divided.group, "grid": grid}
        image = None
        if attn.add_k_proj is not None:
            if encoder_hidden_states is None or encoder_hidden_states.shape[1] <= _TEXT_TOKENS:
                return self.pass_on("no image among the keys", *arguments)
            image, encoder_hidden_states = encoder_hidden_states.tensor_split((-_TEXT_TOKENS,), dim=1)
        q, k, v = (heads_of(x, attn) for x in _get_qkv_projections(attn, hidden_states, encoder_hidden_states))
        q, k = qk_norm_rope(q, k, norm_of(attn.norm_q, attn.norm_k, "rms_across_heads"), rope, grid=grid, start=start)
        out = attention(q, k, v, backend=self.setting.backend, **across)
        if image is not None:
            image_k, image_v = _get_added_kv_projections(attn, image)
            image_k, image_v = heads_of(attn.norm_added_k(image_k), attn), heads_of(image_v, attn)
            out = out + attention(q, image_k, image_v, backend=self.setting.backend)
        return after(attn, out, q.dtype)


def wan(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a WanTransformer3DModel: see `swap.Family`."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    def replacement(path: str, attn: Any) -> Processor | str:
        why = (
            processor_refusal(attn, WanAttnProcessor)
            or odd_heads(attn, attn.inner_dim)
            or norm_refusal(attn.norm_q, attn.norm_k, "rms_across_heads", attn.inner_dim)
        )
        if why:
            return why
        swaps = "norm and attention to text" if path.endswith("attn2") else "norm, rotation and attention"
        if attn.add_k_proj is not None:
            swaps += " and image"
        return WanProcessor(path, attn.processor, setting, swaps)

    return replacement
