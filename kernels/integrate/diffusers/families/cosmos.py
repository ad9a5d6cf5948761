"""Cosmos: RMS norm per head, rotation of the halves of a head, attention to text.

Source of the computation: diffusers, models/transformers/transformer_cosmos.py (CosmosAttnProcessor2_0).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import qk_norm_rope
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, mask_refusal, unfit
from phys4d.kernels.integrate.diffusers.families.cosmos_block import cosmos_blocks
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
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
from phys4d.kernels.integrate.diffusers.rotation import Rotation
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class CosmosProcessor(Processor):
    """Attention of the video to itself, with norm and rotation, or to the text, with the norm."""

    norms = ("norm_q", "norm_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why, rope = unfit(hidden_states, encoder_hidden_states), None
        if why is None:
            why = mask_refusal(attention_mask, hidden_states, int(attn.heads), keys.shape[1])
        count = 1 if image_rotary_emb is None else hidden_states.shape[1]
        if image_rotary_emb is not None and why is None:
            rope = self.setting.rotation.table(image_rotary_emb, count, hidden_states.device)
            why = rope if isinstance(rope, str) else "a rotation of text" if keys is not hidden_states else None
        if why or isinstance(rope, str):
            return self.pass_on(  # type: ignore[no-any-return]
                str(why), attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
        q, k, v = attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)
        norm = self.qk_norm("rms", attn, q)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        if norm is None:
            q, k = called(attn.norm_q, q), called(attn.norm_k, k)
        if norm is not None or rope is not None:
            q, k = qk_norm_rope(q, k, norm, rope, grid=(count, 1, 1))
        return after(attn, attention(q, k, v, mask=attention_mask, backend=self.setting.backend), q.dtype)


def cosmos(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a CosmosTransformer3DModel."""
    own = diffusers_class("transformer_cosmos", "CosmosAttnProcessor2_0")
    maker = known_forwards(diffusers_class("transformer_cosmos", "CosmosRotaryPosEmbed"))
    setting.rotation = Rotation(transformer=transformer, maker=maker, layout="half")
    known = known_qk_norms("rms")

    def replacement(path: str, attn: Any) -> Processor | str:
        swaps = "norm and attention to text" if path.endswith("attn2") else "norm, rotation and attention"
        return (
            processor_refusal(attn, own)
            or odd_heads(attn, attn.inner_dim)
            or ("keys of other heads" if attn.inner_kv_dim != attn.inner_dim else None)
            or CosmosProcessor(path, attn.processor, setting, swaps, known)
        )

    return replacement


COSMOS = Family(
    "diffusers.CosmosTransformer3DModel",
    cosmos,
    cosmos_blocks,
    parts={
        "attention": "norm per head of queries and keys, rotation, attention of the video and to text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"cosmos": partial(build, "cosmos")},
)
