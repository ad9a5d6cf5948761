"""Wan's attention: norm across all heads, rotation of interleaved pairs, cross-attention to text and to an image.

Source of the computation: diffusers, models/transformers/transformer_wan.py (WanAttnProcessor).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import qk_norm_rope
from phys4d.kernels.integrate.diffusers.bypass import mask_refusal, unfit
from phys4d.kernels.integrate.diffusers.families.drawn import numbers
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.families.wan_block import wan_blocks, wan_timesteps
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    after,
    called,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.register import Family, Part
from phys4d.kernels.integrate.diffusers.rotation import Rotation
from phys4d.kernels.integrate.diffusers.setting import Setting

_TEXT_TOKENS = 512  # diffusers takes the last 512 tokens for the text, those before it for the image


class WanProcessor(Processor):
    """Self-attention with norm and rotation, or cross-attention with the norm, of a WanAttention."""

    norms = ("norm_q", "norm_k")

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
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why = unfit(hidden_states, encoder_hidden_states)
        if attention_mask is not None and why is None:
            why = mask_refusal(attention_mask, hidden_states, int(attn.heads), keys.shape[1])
            if divided or attn.add_k_proj is not None:
                why = "an attention mask"
        if why:
            return self.pass_on(why, *arguments)
        rope: Any = None
        grid, start = (1, 1, 1), 0
        if rotary_emb is not None:
            count = divided.parts.count if divided else hidden_states.shape[1]
            rope = self.setting.rotation.table(rotary_emb, count, hidden_states.device)
            if isinstance(rope, str) or encoder_hidden_states is not None:
                return self.pass_on(rope if isinstance(rope, str) else "a rotation of text", *arguments)
            grid = (count, 1, 1)
            if divided:
                start = divided.parts.own.start
                across = {"group": divided.group, "grid": grid, "context": divided.context}
        image = None
        if attn.add_k_proj is not None:
            if encoder_hidden_states is None or encoder_hidden_states.shape[1] <= _TEXT_TOKENS:
                return self.pass_on("no image among the keys", *arguments)
            image, encoder_hidden_states = encoder_hidden_states.tensor_split((-_TEXT_TOKENS,), dim=1)
        q, k, v = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        norm = self.qk_norm("rms_across_heads", attn, q)
        if norm is None:
            q, k = called(attn.norm_q, q), called(attn.norm_k, k)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        if norm is not None or rope is not None:
            q, k = qk_norm_rope(q, k, norm, rope, grid=grid, start=start)
        out = attention(q, k, v, mask=attention_mask, backend=self.setting.backend, **across)
        if image is not None:
            image_k, image_v = _get_added_kv_projections(attn, image)
            image_k, image_v = heads_of(attn.norm_added_k(image_k), attn), heads_of(image_v, attn)
            out = out + attention(q, image_k, image_v, backend=self.setting.backend)
        return after(attn, out, q.dtype)


def wan_attention(
    module: str = "transformer_wan", kind: str = "WanAttnProcessor"
) -> Callable[[Any, Setting], Callable[[str, Any], Processor | str]]:
    """New processors in place of this class, which stands in a module of diffusers.models.transformers."""

    def attention_of(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
        own = diffusers_class(module, kind)
        setting.rotation, known = Rotation(reads_apart=True), known_qk_norms("rms_across_heads")

        def replacement(path: str, attn: Any) -> Processor | str:
            why = processor_refusal(attn, own) or odd_heads(attn, attn.inner_dim)
            if why:
                return why
            swaps = "norm and attention to text" if path.endswith("attn2") else "norm, rotation and attention"
            if attn.add_k_proj is not None:
                swaps += " and image"
            return WanProcessor(path, attn.processor, setting, swaps, known)

        return replacement

    return attention_of


def example(image: bool = False) -> tuple[Any, dict[str, Any]]:
    """A tiny random model, with an image among the keys or without, and the arguments of one call."""
    from diffusers import WanTransformer3DModel

    extra = {"image_dim": 12, "added_kv_proj_dim": 32, "pos_embed_seq_len": None} if image else {}
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=10, freq_dim=8,
        ffn_dim=24, num_layers=2, rope_max_seq_len=16, **extra,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 4, 3, 4, 6, seed=1),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": numbers(2, _TEXT_TOKENS if image else 7, 10, seed=2),
    }
    if image:
        call["encoder_hidden_states_image"] = numbers(2, 5, 12, seed=3)
    return model, call


WAN_PARTS: dict[Part, str] = {
    "attention": "norm of queries and keys across heads, rotation, attention; attention to text and image",
    "norm": "gate, residual, norm and modulation of the blocks",
}
WAN = Family(
    "diffusers.WanTransformer3DModel",
    wan_attention(),
    wan_blocks(),
    timesteps=wan_timesteps,
    divides="blocks",
    parts=WAN_PARTS,
    examples={"wan": example, "wan-image": lambda: example(image=True)},
)
