"""Mochi: RMS norm per head, learned angles that differ from head to head, text last, without its padding.

Every head has its own angles, so the rotation is the model's computation; norm and attention are swapped. The model
gathers each clip's valid tokens of the text, and returns them before zeros: here they are moved to the front, which
makes the mask a number of keys, on the device, without waiting for it.

Source of the computation: diffusers, models/attention_processor.py (MochiAttention, MochiAttnProcessor2_0).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import qk_norm_rope
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, unfit
from phys4d.kernels.integrate.diffusers.families.mochi_block import mochi_blocks
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    called,
    first_tokens,
    heads_of,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class MochiProcessor(Processor):
    """Joint attention of video and the valid tokens of the text, each with norms and projections of its own."""

    norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        why = unfit(hidden_states, encoder_hidden_states)
        if why is None and attention_mask.shape != encoder_hidden_states.shape[:2]:
            why = f"a mask {list(attention_mask.shape)} for {encoder_hidden_states.shape[1]} words"
        if why:
            return self.pass_on(  # type: ignore[no-any-return]
                why, attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
        count, valid = hidden_states.shape[1], attention_mask != 0
        text, lengths = first_tokens(encoder_hidden_states, valid)
        q, k, v = (heads_of(project(hidden_states), attn) for project in (attn.to_q, attn.to_k, attn.to_v))
        q, k = self._normed(attn, "norm_q", "norm_k", q, k)
        if image_rotary_emb is not None:
            q, k = _rotated(q, *image_rotary_emb), _rotated(k, *image_rotary_emb)
        added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        text_q, text_k, text_v = (heads_of(project(text), attn) for project in added)
        text_q, text_k = self._normed(attn, "norm_added_q", "norm_added_k", text_q, text_k)
        q, k, v = (torch.cat(pair, dim=1) for pair in ((q, text_q), (k, text_k), (v, text_v)))
        out = attention(q, k, v, key_lengths=lengths + count, backend=self.setting.backend).flatten(2, 3).to(q.dtype)
        video, text = out.tensor_split((count,), dim=1)
        beyond = torch.arange(text.shape[1], device=text.device) >= lengths[:, None]
        text = text.masked_fill(beyond[..., None], 0.0)
        video = attn.to_out[1](attn.to_out[0](video))
        return video, attn.to_add_out(text) if hasattr(attn, "to_add_out") else text

    def _normed(self, attn: Any, q_name: str, k_name: str, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.qk_norm("rms", attn, q.flatten(2, 3), q_name, k_name)
        if norm is None:
            return called(getattr(attn, q_name), q), called(getattr(attn, k_name), k)
        return qk_norm_rope(q, k, norm, None, grid=(1, 1, 1))


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [B, S, heads, D] with pairs of channels turned by angles [S, heads, D/2]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    turned = (even * cosine - odd * sine).to(x.dtype), (even * sine + odd * cosine).to(x.dtype)
    return torch.stack(turned, dim=-1).flatten(-2)


def mochi(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a MochiTransformer3DModel."""
    from diffusers.models.attention_processor import MochiAttnProcessor2_0
    from diffusers.models.normalization import MochiRMSNorm

    known = known_forwards(MochiRMSNorm)

    def replacement(path: str, attn: Any) -> Processor | str:
        swaps = "norm and attention with its text mask; the rotation stays the model's own, whose angles are learned"
        return (
            processor_refusal(attn, MochiAttnProcessor2_0)
            or odd_heads(attn, attn.to_q.out_features)
            or MochiProcessor(path, attn.processor, setting, swaps, known)
        )

    return replacement


MOCHI = Family(
    "diffusers.MochiTransformer3DModel",
    mochi,
    mochi_blocks,
    parts={
        "attention": "norm per head of queries and keys, joint attention of video and the words of the text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"mochi": partial(build, "mochi")},
)
