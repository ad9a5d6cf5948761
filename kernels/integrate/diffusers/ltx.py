"""LTX: rotation across all heads, which stays the model's own, and cross-attention to masked text.

Every head has its own angles, so no table per pair of channels of a head holds them: self-attention keeps the model's
norm and rotation, and swaps what follows. The text's mask becomes a number of keys, whatever its order: valid tokens
are moved to the front (attention does not depend on their order), on the device, without waiting for it.

Source of the computation: diffusers, models/transformers/transformer_ltx.py (LTXVideoAttnProcessor).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    Setting,
    after,
    heads_of,
    norm_of,
    norm_refusal,
    odd_heads,
    processor_refusal,
)

_MASKED = -5000.0  # the model writes 0 and -10000 (-9984 in bfloat16)
_MASK_ARGUMENT = 3  # where encoder_attention_mask stands among the transformer's arguments


class MaskWatch:
    """Whether the biases that reach the processors come from masks of ones and zeros.

    A processor gets a bias only; the transformer makes it from a mask [B, S] and passes anything else through. One
    soft mask is enough to leave all masked calls to the model from then on: a block that is computed again in the
    backward pass does not know which forward pass it belongs to.
    """

    def __init__(self) -> None:
        self.refusal: str | None = "a mask that did not come through the transformer"
        self._soft = False

    def __call__(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = arguments[_MASK_ARGUMENT] if len(arguments) > _MASK_ARGUMENT else named.get("encoder_attention_mask")
        if mask is None or self._soft:
            return
        self._soft = mask.ndim != 2 or mask.is_floating_point()
        self.refusal = (
            f"encoder_attention_mask came as {mask.dtype} {list(mask.shape)}; only a bool or integer [B, S] is known "
            "to be ones and zeros"
            if self._soft
            else None
        )


def valid_first(tokens: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, S, C] with those that the bias [B, 1, S] does not mask first, and how many they are, [B].

    Where all are masked all are counted: the same large number below every score changes nothing.
    """
    masked = bias[:, 0] < _MASKED
    order = masked.to(torch.int8).argsort(dim=1, stable=True)
    lengths = (~masked).sum(dim=1)
    lengths = torch.where(lengths == 0, masked.shape[1], lengths)
    return tokens.gather(1, order[..., None].expand_as(tokens)), lengths


class LTXProcessor(Processor):
    """Self-attention after the model's norm and rotation, or cross-attention with the norm and the text's mask."""

    def __init__(self, path: str, own: Any, setting: Setting, swaps: str, watch: MaskWatch) -> None:
        super().__init__(path, own, setting, swaps)
        self.watch = watch

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        from diffusers.models.transformers.transformer_ltx import apply_rotary_emb

        keys, lengths = hidden_states if encoder_hidden_states is None else encoder_hidden_states, None
        if attention_mask is not None:
            why = self.watch.refusal
            if image_rotary_emb is not None or attention_mask.shape != (keys.shape[0], 1, keys.shape[1]):
                why = "a mask of pairs, not of keys"
            if why:
                arguments = (attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
                return self.pass_on(why, *arguments)
            keys, lengths = valid_first(keys, attention_mask)
        q, k, v = attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)
        norm = None
        if image_rotary_emb is None:
            norm = norm_of(attn.norm_q, attn.norm_k, "rms_across_heads")
        else:
            q = apply_rotary_emb(attn.norm_q(q), image_rotary_emb)
            k = apply_rotary_emb(attn.norm_k(k), image_rotary_emb)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        out = attention(q, k, v, key_lengths=lengths, qk_norm=norm, backend=self.setting.backend)
        return after(attn, out, q.dtype)


def ltx(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for an LTXVideoTransformer3DModel: see `swap.Family`."""
    from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor

    watch = MaskWatch()
    setting.hooks.append(transformer.register_forward_pre_hook(watch, with_kwargs=True))

    def replacement(path: str, attn: Any) -> Processor | str:
        why = (
            processor_refusal(attn, LTXVideoAttnProcessor)
            or odd_heads(attn, attn.inner_dim)
            or norm_refusal(attn.norm_q, attn.norm_k, "rms_across_heads", attn.inner_dim)
        )
        if why:
            return why
        if path.endswith("attn2"):
            swaps = "norm and attention to text"
        else:
            swaps = "attention; norm and rotation stay the model's own, whose angles differ from head to head"
        return LTXProcessor(path, attn.processor, setting, swaps, watch)

    return replacement
