"""EasyAnimate: LayerNorm per head, text before the video, interleaved rotation of the video's tokens.

Blocks of two streams project and norm the text by weights of its own.

Source of the computation: diffusers, models/transformers/transformer_easyanimate.py (EasyAnimateAttnProcessor2_0,
EasyAnimateTransformerBlock, EasyAnimateLayerNormZero).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import adaptive_norm, qk_norm_rope
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, rows_of
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, mask_refusal, unfit
from phys4d.kernels.integrate.diffusers.families.cogvideox_block import CogVideoXBlock
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    called,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class EasyAnimateProcessor(Processor):
    """Joint attention of text and video, in blocks of one stream or of two."""

    norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        arguments = (attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        why = unfit(hidden_states, encoder_hidden_states)
        if encoder_hidden_states is None:
            why = "no text"
        if why:
            return self.pass_on(why, *arguments)  # type: ignore[no-any-return]
        count, words = hidden_states.shape[1], encoder_hidden_states.shape[1]
        tokens = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        why = mask_refusal(attention_mask, tokens, int(attn.heads), words + count)
        rope: Any = None
        if image_rotary_emb is not None:
            rope = self.setting.rotation.table(image_rotary_emb, count, hidden_states.device)
            why = rope if isinstance(rope, str) else why
        if why:
            return self.pass_on(why, *arguments)  # type: ignore[no-any-return]
        if attn.add_q_proj is None:
            q, k, v = (project(tokens) for project in (attn.to_q, attn.to_k, attn.to_v))
            q, k = self._normed(attn, "norm_q", "norm_k", q, k, rope, count, words)
            v = heads_of(v, attn)
        else:
            q, k, v = (project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v))
            q, k = self._normed(attn, "norm_q", "norm_k", q, k, rope, count)
            added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
            text_q, text_k, text_v = (project(encoder_hidden_states) for project in added)
            text_q, text_k = self._normed(attn, "norm_added_q", "norm_added_k", text_q, text_k, None, 1)
            q, k = torch.cat((text_q, q), dim=1), torch.cat((text_k, k), dim=1)
            v = heads_of(torch.cat((text_v, v), dim=1), attn)
        out = attention(q, k, v, mask=attention_mask, backend=self.setting.backend).flatten(2, 3).to(q.dtype)
        text, video = out.tensor_split((words,), dim=1)
        if getattr(attn, "to_out", None) is not None:
            video = attn.to_out[1](attn.to_out[0](video))
        if getattr(attn, "to_add_out", None) is not None:
            text = attn.to_add_out(text)
        return video, text

    def _normed(
        self, attn: Any, q_name: str, k_name: str, q: Tensor, k: Tensor, rope: Any, count: int, words: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, S, heads, D], normed and rotated, of `words` of text and `count` tokens of the video."""
        norm = self.qk_norm("layer", attn, q, q_name, k_name)
        q, k = heads_of(q, attn), heads_of(k, attn)
        if norm is None:  # the model calls its norms with [B, heads, S, D]
            names = (q_name, q), (k_name, k)
            q, k = (called(getattr(attn, name), x.transpose(1, 2)).transpose(1, 2) for name, x in names)
            if rope is None:
                return q, k
        return qk_norm_rope(q, k, norm, rope, grid=(count, 1, 1), text=(words, "first"))


def easyanimate(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for an EasyAnimateTransformer3DModel."""
    own, known = diffusers_class("transformer_easyanimate", "EasyAnimateAttnProcessor2_0"), known_qk_norms("layer")

    def replacement(path: str, attn: Any) -> Processor | str:
        return (
            processor_refusal(attn, own)
            or odd_heads(attn, attn.inner_dim)
            or ("cross-attention" if attn.is_cross_attention else None)
            or EasyAnimateProcessor(path, attn.processor, setting, "norm, rotation and attention", known)
        )

    return replacement


class EasyAnimateBlock(CogVideoXBlock):
    """An EasyAnimateTransformerBlock's forward, where each stream may have an MLP of its own, and a norm after it."""

    def __call__(  # type: ignore[override]
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any = None
    ) -> tuple[Tensor, Tensor]:
        block = self.module
        why = unfit(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, temb, image_rotary_emb
            )
        streams = rows_of(hidden_states), rows_of(encoder_hidden_states)
        _, (out, text_out), gates = self.between("norm1", streams, None, (None, None), temb)
        outs = block.attn1(hidden_states=out, encoder_hidden_states=text_out, image_rotary_emb=image_rotary_emb)
        streams, outs, gates = self.between("norm2", streams, outs, gates, temb)
        layers = block.ff, block.ff if block.txt_ff is None else block.txt_ff
        outs = [layer(out) for layer, out in zip(layers, outs, strict=True)]
        if block.norm3 is not None:
            outs = [block.norm3(out) for out in outs]
        video, text = (
            adaptive_norm(x, y, gate=gate, norm=None)[0] for x, y, gate in zip(streams, outs, gates, strict=True)
        )
        return video, text


def easyanimate_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for the blocks of an EasyAnimateTransformer3DModel."""
    from diffusers.models.normalization import FP32LayerNorm

    own = diffusers_class("transformer_easyanimate", "EasyAnimateTransformerBlock")
    norms = known_forwards(nn.LayerNorm, FP32LayerNorm)
    zeros = known_forwards(diffusers_class("transformer_easyanimate", "EasyAnimateLayerNormZero"))

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        if not isinstance(block, own):
            return None
        return block_refusal(block, own) or EasyAnimateBlock(path, block, setting, norms, zeros)

    return replacement


EASYANIMATE = Family(
    "diffusers.EasyAnimateTransformer3DModel",
    easyanimate,
    easyanimate_blocks,
    parts={
        "attention": "norm per head of queries and keys, rotation of the video, joint attention of text and video",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"easyanimate": partial(build, "easyanimate")},
)
