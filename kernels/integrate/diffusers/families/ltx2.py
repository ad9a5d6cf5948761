"""LTX-2: attention of video, sound and text after the model's rotation, whose angles differ from head to head.

Source of the computation: diffusers, models/transformers/transformer_ltx2.py (LTX2AudioVideoAttnProcessor,
LTX2PerturbedAttnProcessor).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
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


class LTX2Processor(Processor):
    """Attention with the norm, after the model's rotation where it has one, and gates of heads."""

    norms = ("norm_q", "norm_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        query_rotary_emb: Any = None,
        key_rotary_emb: Any = None,
        perturbation_mask: Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> Tensor:
        from diffusers.models.transformers.transformer_ltx2 import apply_interleaved_rotary_emb, apply_split_rotary_emb

        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why = unfit(hidden_states, encoder_hidden_states)
        if perturbation_mask is not None or all_perturbed:
            why = "a mask of perturbed clips"
        if attn.rope_type not in ("interleaved", "split"):
            why = f"a rotation of the kind {attn.rope_type}"
        mask = score_mask(attn, attention_mask, hidden_states, keys.shape[1]) if why is None else None
        if why or isinstance(mask, str):
            arguments = attn, hidden_states, encoder_hidden_states, attention_mask, query_rotary_emb, key_rotary_emb
            perturbed = (perturbation_mask, all_perturbed) if self.perturbs else ()
            return self.pass_on(why or str(mask), *arguments, *perturbed)  # type: ignore[no-any-return]
        gates = None if attn.to_gate_logits is None else 2.0 * attn.to_gate_logits(hidden_states).sigmoid()
        q, k, v = attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)
        norm = None if query_rotary_emb is not None else self.qk_norm("rms_across_heads", attn, q)
        if norm is None:
            q, k = called(attn.norm_q, q), called(attn.norm_k, k)
        if query_rotary_emb is not None:
            rotate = apply_split_rotary_emb if attn.rope_type == "split" else apply_interleaved_rotary_emb
            q = rotate(q, query_rotary_emb)
            k = rotate(k, query_rotary_emb if key_rotary_emb is None else key_rotary_emb)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        out = attention(q, k, v, mask=mask, qk_norm=norm, backend=self.setting.backend)
        return after(attn, out if gates is None else out.to(q.dtype) * gates[..., None], q.dtype)

    @property
    def perturbs(self) -> bool:
        """Whether the model's own processor takes a mask of perturbed clips."""
        return type(self.own).__name__ == "LTX2PerturbedAttnProcessor"


def ltx2(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for an LTX2VideoTransformer3DModel."""
    own = [
        diffusers_class("transformer_ltx2", name)
        for name in ("LTX2AudioVideoAttnProcessor", "LTX2PerturbedAttnProcessor")
    ]
    known = known_qk_norms("rms_across_heads")

    def replacement(path: str, attn: Any) -> Processor | str:
        return (
            processor_refusal(attn, *own)
            or odd_heads(attn, attn.inner_dim)
            or ("keys of other heads" if attn.inner_kv_dim != attn.inner_dim else None)
            or LTX2Processor(path, attn.processor, setting, "norm where nothing is rotated, and attention", known)
        )

    return replacement


LTX2 = Family(
    "diffusers.LTX2VideoTransformer3DModel",
    ltx2,
    parts={"attention": "attention of and between video, sound and text; norm of queries and keys to text"},
    examples={"ltx-2": partial(build, "ltx-2")},
)
