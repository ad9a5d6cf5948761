"""Allegro: rotation of halves of thirds of a head, which stays the model's own, and attention with biases for masks.

Source of the computation: diffusers, models/attention_processor.py (AllegroAttnProcessor2_0) and models/embeddings.py
(apply_rotary_emb_allegro).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.plain import plain_refusal
from phys4d.kernels.integrate.diffusers.families.table_block import AllegroBlock, table_blocks
from phys4d.kernels.integrate.diffusers.processor import Processor, after, heads_of, processor_refusal, score_mask
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class AllegroProcessor(Processor):
    """Attention of the video to itself, after the model's rotation, or to the text."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        from diffusers.models.embeddings import apply_rotary_emb_allegro

        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why = unfit(hidden_states, encoder_hidden_states) or plain_refusal(attn)
        if why is None and hidden_states.ndim != 3:
            why = f"tokens {list(hidden_states.shape)}"
        mask = score_mask(attn, attention_mask, hidden_states, keys.shape[1]) if why is None else None
        if why or isinstance(mask, str):
            return self.pass_on(  # type: ignore[no-any-return]
                why or str(mask), attn, hidden_states, encoder_hidden_states, attention_mask, temb, image_rotary_emb
            )
        q, k, v = (heads_of(x, attn) for x in (attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)))
        if image_rotary_emb is not None and not attn.is_cross_attention:
            q, k = (
                apply_rotary_emb_allegro(x.transpose(1, 2), image_rotary_emb[0], image_rotary_emb[1]).transpose(1, 2)
                for x in (q, k)
            )
        return after(attn, attention(q, k, v, mask=mask, backend=self.setting.backend), q.dtype)


def allegro(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for an AllegroTransformer3DModel."""
    from diffusers.models.attention_processor import AllegroAttnProcessor2_0

    def replacement(path: str, attn: Any) -> Processor | str:
        if path.endswith("attn2"):
            swaps = "attention to text"
        else:
            swaps = "attention; the rotation stays the model's own, which turns halves of thirds of a head"
        return (
            processor_refusal(attn, AllegroAttnProcessor2_0)
            or plain_refusal(attn)
            or AllegroProcessor(path, attn.processor, setting, swaps)
        )

    return replacement


ALLEGRO = Family(
    "diffusers.AllegroTransformer3DModel",
    allegro,
    table_blocks("transformer_allegro", "AllegroTransformerBlock", AllegroBlock),
    parts={
        "attention": "attention of the video and to text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"allegro": partial(build, "allegro")},
)
