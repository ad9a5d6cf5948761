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
from phys4d.kernels.integrate.diffusers.bypass import Known, unfit
from phys4d.kernels.integrate.diffusers.families.drawn import numbers
from phys4d.kernels.integrate.diffusers.families.table_block import LTXBlock, table_blocks
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    after,
    called,
    first_tokens,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.setting import Setting

_MASKED = -5000.0  # the model writes 0 and -10000 (-9984 in bfloat16)
_MASK_ARGUMENT = 3  # where encoder_attention_mask stands among the transformer's arguments


class MaskWatch:
    """Whether the biases that reach the processors come from masks of ones and zeros.

    A processor gets a bias only; the transformer makes it from a mask [B, S] and passes anything else through. One
    soft mask is enough to leave all masked calls to the model from then on: a block that is computed again in the
    backward pass does not know which forward pass it belongs to.
    """

    def __init__(self, transformer: Any) -> None:
        self.handle = transformer.register_forward_pre_hook(self, with_kwargs=True)
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

    def undo(self) -> None:
        """Removes itself from the transformer's hooks."""
        self.handle.remove()


def valid_first(tokens: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, S, C] with those that the bias [B, 1, S] does not mask first, and how many they are, [B].

    Where all are masked all are counted: the same large number below every score changes nothing.
    """
    tokens, lengths = first_tokens(tokens, bias[:, 0] >= _MASKED)
    return tokens, torch.where(lengths == 0, tokens.shape[1], lengths)


class LTXProcessor(Processor):
    """Self-attention after the model's norm and rotation, or cross-attention with the norm and the text's mask."""

    def __init__(self, path: str, own: Any, setting: Setting, swaps: str, known: Known, watch: MaskWatch) -> None:
        super().__init__(path, own, setting, swaps, known)
        self.watch = watch
        self.norms = ("norm_q", "norm_k") if path.endswith("attn2") else ()

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
        why = unfit(hidden_states, encoder_hidden_states)
        if attention_mask is not None and why is None:
            why = self.watch.refusal
            if image_rotary_emb is not None or attention_mask.shape != (keys.shape[0], 1, keys.shape[1]):
                why = "a mask of pairs, not of keys"
        if why:
            return self.pass_on(
                why, attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )  # fmt: skip
        if attention_mask is not None:
            keys, lengths = valid_first(keys, attention_mask)
        q, k, v = attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)
        norm = None if image_rotary_emb is not None else self.qk_norm("rms_across_heads", attn, q)
        if norm is None:
            q, k = called(attn.norm_q, q), called(attn.norm_k, k)
        if image_rotary_emb is not None:
            q, k = apply_rotary_emb(q, image_rotary_emb), apply_rotary_emb(k, image_rotary_emb)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        out = attention(q, k, v, key_lengths=lengths, qk_norm=norm, backend=self.setting.backend)
        return after(attn, out, q.dtype)


def ltx(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for an LTXVideoTransformer3DModel."""
    from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor

    watch, known = MaskWatch(transformer), known_qk_norms("rms_across_heads")
    setting.hooks.append(watch)

    def replacement(path: str, attn: Any) -> Processor | str:
        why = processor_refusal(attn, LTXVideoAttnProcessor) or odd_heads(attn, attn.inner_dim)
        if why:
            return why
        if path.endswith("attn2"):
            swaps = "norm and attention to text"
        else:
            swaps = "attention; norm and rotation stay the model's own, whose angles differ from head to head"
        return LTXProcessor(path, attn.processor, setting, swaps, known, watch)

    return replacement


def example() -> tuple[Any, dict[str, Any]]:
    """A tiny random model and the arguments of one call, with masks whose valid tokens do not stand first."""
    from diffusers import LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=10,
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 3 * 2 * 3, 4, seed=1),
        "encoder_hidden_states": numbers(2, 6, 10, seed=2),
        "timestep": torch.tensor([3, 700]),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1]]),
        "num_frames": 3,
        "height": 2,
        "width": 3,
    }
    return model, call


LTX = Family(
    "diffusers.LTXVideoTransformer3DModel",
    ltx,
    table_blocks("transformer_ltx", "LTXVideoTransformerBlock", LTXBlock),
    parts={
        "attention": "attention of the video; norm of queries and keys, and attention, to text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"ltx": example},
)
