"""Kandinsky 5: RMS norm per head in float32, a rotation that rounds to bfloat16, attention to text.

The model rounds rotated queries and keys to bfloat16 whatever their dtype. Its norm is called and its rotation
computed as the model does; attention is swapped. Attention to blocks of tokens that the model chooses stays its own.

Source of the computation: diffusers, models/transformers/transformer_kandinsky.py (Kandinsky5AttnProcessor).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.kandinsky_block import kandinsky_blocks
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.processor import Processor, processor_refusal
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class KandinskyProcessor(Processor):
    """Attention after the model's norm and rotation, of tokens [B, S, C] or [B, T, H, W, C]."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, rotary_emb: Any = None,
        sparse_params: Any = None,
    ) -> Tensor:  # fmt: skip
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why = unfit(hidden_states, encoder_hidden_states)
        if sparse_params is not None:
            why = "attention to blocks of tokens that the model chooses"
        if why is None and (hidden_states.ndim != 3 or keys.ndim != 3):
            why = f"tokens {list(hidden_states.shape)} and keys {list(keys.shape)}"
        if why:
            return self.pass_on(  # type: ignore[no-any-return]
                why, attn, hidden_states, encoder_hidden_states, rotary_emb, sparse_params
            )
        q, k, v = (
            x.unflatten(2, (attn.num_heads, -1))
            for x in (attn.to_query(hidden_states), attn.to_key(keys), attn.to_value(keys))
        )
        q, k = attn.query_norm(q.float()).type_as(q), attn.key_norm(k.float()).type_as(k)
        if rotary_emb is not None:
            q, k = _rotated(q, rotary_emb), _rotated(k, rotary_emb)
        out = attention(q, k, v, backend=self.setting.backend).flatten(2, 3)
        return attn.out_layer(out)  # type: ignore[no-any-return]


def _rotated(x: Tensor, matrices: Tensor) -> Tensor:
    """x [B, S, heads, D] with pairs of channels times matrices [..., D/2, 2, 2], rounded to bfloat16."""
    pairs = x.unflatten(3, (-1, 1, 2)).float()
    return (matrices * pairs).sum(dim=-1).flatten(3).to(torch.bfloat16).type_as(x)


def kandinsky(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a Kandinsky5Transformer3DModel."""
    own = diffusers_class("transformer_kandinsky", "Kandinsky5AttnProcessor")

    def replacement(path: str, attn: Any) -> Processor | str:
        swaps = "attention; norm and rotation, which rounds to bfloat16, stay the model's own"
        return processor_refusal(attn, own) or KandinskyProcessor(path, attn.processor, setting, swaps)

    return replacement


KANDINSKY = Family(
    "diffusers.Kandinsky5Transformer3DModel",
    kandinsky,
    kandinsky_blocks,
    parts={
        "attention": "attention of the video, of the text and to text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"kandinsky-5": partial(build, "kandinsky-5")},
)
