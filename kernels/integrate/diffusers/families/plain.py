"""Attention without norm and rotation: diffusers' AttnProcessor2_0, which several models have.

Source of the computation: diffusers, models/attention_processor.py (AttnProcessor2_0).
"""

from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.processor import Processor, after, heads_of, processor_refusal, score_mask

_EXTRAS = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "residual_connection")


class PlainProcessor(Processor):
    """Attention of rows to themselves or to the text, with a mask of scores: [rows, S, C] to [rows, S, C]."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        why = unfit(hidden_states, encoder_hidden_states) or plain_refusal(attn)
        mask = score_mask(attn, attention_mask, hidden_states, keys.shape[1]) if why is None else None
        if why or isinstance(mask, str):
            return self.pass_on(  # type: ignore[no-any-return]
                why or str(mask), attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
        q, k, v = (heads_of(x, attn) for x in (attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)))
        return after(attn, attention(q, k, v, mask=mask, backend=self.setting.backend), q.dtype)


def plain_refusal(attn: Any) -> str | None:
    """Why this attention module does more than its four layers; None if it does not."""
    if any(getattr(attn, extra) for extra in _EXTRAS) or attn.rescale_output_factor != 1:
        return "an attention with a norm, a residual or a factor of its own"
    return None


def plain_processor(path: str, attn: Any, setting: Any, swaps: str) -> Processor | str:
    """The new processor in place of an AttnProcessor2_0, or why there is none."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    return (
        processor_refusal(attn, AttnProcessor2_0)
        or plain_refusal(attn)
        or PlainProcessor(path, attn.processor, setting, swaps)
    )
