"""SANA-Video: softmax attention to text, with the norm across heads; its attention to itself is linear and not ours.

Source of the computation: diffusers, models/transformers/transformer_sana_video.py (SanaAttnProcessor2_0).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.families.table_block import SanaBlock, table_blocks
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    after,
    called,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
    score_mask,
)
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class SanaProcessor(Processor):
    """Attention to text, with the norm."""

    norms = ("norm_q", "norm_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why = unfit(hidden_states, encoder_hidden_states)
        mask = score_mask(attn, attention_mask, hidden_states, keys.shape[1]) if why is None else None
        if why or isinstance(mask, str):
            return self.pass_on(  # type: ignore[no-any-return]
                why or str(mask), attn, hidden_states, encoder_hidden_states, attention_mask
            )
        q, k, v = attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)
        norm = self.qk_norm("rms_across_heads", attn, q)
        if norm is None:
            q, k = called(attn.norm_q, q), called(attn.norm_k, k)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        out = attention(q, k, v, mask=mask, qk_norm=norm, backend=self.setting.backend)
        return after(attn, out, q.dtype) / attn.rescale_output_factor  # type: ignore[no-any-return]


def sana(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a SanaVideoTransformer3DModel."""
    names = "SanaAttnProcessor2_0", "SanaLinearAttnProcessor3_0"
    own, linear = (diffusers_class("transformer_sana_video", name) for name in names)
    known = known_qk_norms("rms_across_heads")

    def replacement(path: str, attn: Any) -> Processor | str:
        if type(attn.processor) is linear:
            return "its attention is linear, without a softmax"
        return (
            processor_refusal(attn, own)
            or odd_heads(attn, attn.inner_dim)
            or ("keys of other heads" if attn.inner_kv_dim != attn.inner_dim else None)
            or SanaProcessor(path, attn.processor, setting, "norm and attention to text", known)
        )

    return replacement


SANA = Family(
    "diffusers.SanaVideoTransformer3DModel",
    sana,
    table_blocks("transformer_sana_video", "SanaVideoTransformerBlock", SanaBlock),
    parts={
        "attention": "norm of queries and keys, and attention, to text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"sana-video": partial(build, "sana-video")},
)
