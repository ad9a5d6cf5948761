"""CogVideoX and ConsisID: LayerNorm per head, text before the video; some variants rotate the video's tokens.

Source of the computation: diffusers, models/attention_processor.py (CogVideoXAttnProcessor2_0 and its fused twin).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.cogvideox_block import cogvideox_blocks
from phys4d.kernels.integrate.diffusers.families.drawn import numbers
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    after,
    called,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class CogVideoXProcessor(Processor):
    """Joint attention of text and video, with the norm of all tokens and the rotation of the video's.

    Where tokens are divided, what comes for the video is this rank's part of text and video (`DividedTokens`).
    """

    norms = ("norm_q", "norm_k")
    fused = False

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
        if why or attention_mask is not None:
            return self.pass_on(why or "an attention mask", *arguments)
        rope: Any = None
        divided = self.setting.divided
        count = hidden_states.shape[1] if divided is None else divided.parts.count - divided.text  # of the video
        if image_rotary_emb is not None:
            rope = self.setting.rotation.table(image_rotary_emb, count, hidden_states.device)
            if isinstance(rope, str):
                return self.pass_on(rope, *arguments)
        text_tokens, tokens = encoder_hidden_states.shape[1], hidden_states
        across: dict[str, Any] = {}  # how attention goes across ranks
        if divided is None:
            tokens = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        else:
            across = {"group": divided.group, "context": divided.context}
        if self.fused:
            projected = attn.to_qkv(tokens).chunk(3, dim=-1)
        else:
            projected = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
        norm = self.qk_norm("layer", attn, projected[0])
        q, k, v = (heads_of(x, attn) for x in projected)
        if norm is None:  # the model calls its norms with [B, heads, S, D]
            q, k = (called(m, x.transpose(1, 2)).transpose(1, 2) for m, x in ((attn.norm_q, q), (attn.norm_k, k)))
        out = attention(
            q, k, v, grid=(count, 1, 1), text=(text_tokens, "first"), qk_norm=norm, rope=rope,
            backend=self.setting.backend, **across,
        )  # fmt: skip
        out = after(attn, out, q.dtype)
        if divided is not None:
            return out, encoder_hidden_states
        return out[:, text_tokens:], out[:, :text_tokens]


class FusedCogVideoXProcessor(CogVideoXProcessor):
    """The same with one projection for queries, keys and values."""

    fused = True


def cogvideox(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a CogVideoXTransformer3DModel."""
    from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0

    known = known_qk_norms("layer")

    def replacement(path: str, attn: Any) -> Processor | str:
        why = (
            processor_refusal(attn, CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0)
            or odd_heads(attn, attn.inner_dim)
        )
        if why:
            return why
        fused = type(attn.processor) is FusedCogVideoXAttnProcessor2_0
        swaps = "norm, rotation where the model is given one, and attention"
        return (FusedCogVideoXProcessor if fused else CogVideoXProcessor)(path, attn.processor, setting, swaps, known)

    return replacement


def example(rotary: bool = True) -> tuple[Any, dict[str, Any]]:
    """A tiny random model, with a rotation of a crop, whose positions are no whole numbers, or without one."""
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    model = CogVideoXTransformer3DModel(
        num_attention_heads=3, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=10, num_layers=2, sample_width=6, sample_height=4, sample_frames=9, max_text_seq_length=5,
        use_rotary_positional_embeddings=rotary,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 3, 4, 4, 6, seed=1),
        "encoder_hidden_states": numbers(2, 5, 10, seed=2),
        "timestep": torch.tensor([3, 700]),
    }
    if rotary:
        call["image_rotary_emb"] = get_3d_rotary_pos_embed(16, ((0, 1), (3, 2)), (2, 3), 3)
    return model, call


COGVIDEOX = Family(
    "diffusers.CogVideoXTransformer3DModel",
    cogvideox,
    cogvideox_blocks(),
    divides="transformer_blocks",
    parts={
        "attention": "norm per head of queries and keys, rotation of the video, joint attention of text and video",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"cogvideox": example, "cogvideox-without-rope": lambda: example(rotary=False)},
)
CONSISID = replace(
    COGVIDEOX,
    model="diffusers.ConsisIDTransformer3DModel",
    blocks=cogvideox_blocks("consisid_transformer_3d", "ConsisIDBlock"),
    divides="",  # it adds the face to the video's tokens between its blocks
    examples={"consisid": partial(build, "consisid")},
)
