"""CogVideoX: LayerNorm per head, text before the video; some variants rotate interleaved pairs of the video's tokens.

Source of the computation: diffusers, models/attention_processor.py (CogVideoXAttnProcessor2_0 and its fused twin).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
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


class CogVideoXProcessor(Processor):
    """Joint attention of text and video, with the norm of all tokens and the rotation of the video's."""

    def __init__(self, path: str, own: Any, setting: Setting, swaps: str, fused: bool) -> None:
        super().__init__(path, own, setting, swaps)
        self.fused = fused

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        arguments = (attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        if attention_mask is not None:
            return self.pass_on("an attention mask", *arguments)
        rope, grid = None, None
        if image_rotary_emb is not None:
            why = self.setting.rotation.refusal(image_rotary_emb, hidden_states.shape[1])
            if why:
                return self.pass_on(why, *arguments)
            rope, grid = self.setting.rotation.rope(image_rotary_emb, hidden_states.device)
        text_tokens = encoder_hidden_states.shape[1]
        tokens = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        if self.fused:
            projected = attn.to_qkv(tokens).chunk(3, dim=-1)
        else:
            projected = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
        q, k, v = (heads_of(x, attn) for x in projected)
        norm = norm_of(attn.norm_q, attn.norm_k, "layer")
        out = attention(
            q, k, v, grid=grid, text=(text_tokens, "first"), qk_norm=norm, rope=rope, backend=self.setting.backend
        )
        out = after(attn, out, q.dtype)
        return out[:, text_tokens:], out[:, :text_tokens]


def cogvideox(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a CogVideoXTransformer3DModel: see `swap.Family`."""
    from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0

    def replacement(path: str, attn: Any) -> Processor | str:
        why = (
            processor_refusal(attn, CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0)
            or odd_heads(attn, attn.inner_dim)
            or norm_refusal(attn.norm_q, attn.norm_k, "layer", attn.inner_dim // attn.heads)
        )
        if why:
            return why
        fused = type(attn.processor) is FusedCogVideoXAttnProcessor2_0
        swaps = "norm, rotation where the model is given one, and attention"
        return CogVideoXProcessor(path, attn.processor, setting, swaps, fused)

    return replacement
