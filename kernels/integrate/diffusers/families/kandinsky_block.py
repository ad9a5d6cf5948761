"""Kandinsky 5's blocks between their layers: LayerNorm in float32, modulation by a row for each clip, gates, residuals.

Source of the computation: diffusers, models/transformers/transformer_kandinsky.py (Kandinsky5TransformerEncoderBlock,
Kandinsky5TransformerDecoderBlock).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, rows_of
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.setting import Setting


class _Block(BlockForward):
    in_float32 = True

    def refusal(self, x: Tensor, time: Tensor, text: Tensor | None = None) -> str | None:
        """Why this call is for the block's own code; None if it is not."""
        why = unfit(x, time, text)
        if why is None and (x.ndim != 3 or time.ndim != 2 or time.shape[0] != x.shape[0]):
            why = f"embedded time {list(time.shape)} for tokens {list(x.shape)}"
        return why

    def stream(self, x: Tensor, rows: Tensor, layers: list[tuple[str, Callable[[Tensor], Tensor]]]) -> Tensor:
        """The tokens [B, S, C] after the layers, each after the norm of its name; rows [B, 3 * layers * C]."""
        x, y, gate = rows_of(x), None, None
        tables = rows.chunk(3 * len(layers), dim=-1)
        for place, (name, layer) in enumerate(layers):
            shift, scale, next_gate = tables[3 * place : 3 * place + 3]
            x, out = self.normed(name, x, y, gate=gate, scale=scale, shift=shift)
            y, gate = layer(out), next_gate
        return adaptive_norm(x, y, gate=gate, norm=None)[0]


class KandinskyTextBlock(_Block):
    """A Kandinsky5TransformerEncoderBlock's forward."""

    norms = ("self_attention_norm", "feed_forward_norm")

    def __call__(self, x: Tensor, time_embed: Tensor, rope: Any) -> Tensor:
        block = self.module
        why = self.refusal(x, time_embed)
        if why is not None:
            return self.pass_on(why, x, time_embed, rope)  # type: ignore[no-any-return]
        return self.stream(
            x,
            block.text_modulation(time_embed),
            [
                ("self_attention_norm", lambda out: block.self_attention(out, rotary_emb=rope)),
                ("feed_forward_norm", block.feed_forward),
            ],
        )


class KandinskyBlock(_Block):
    """A Kandinsky5TransformerDecoderBlock's forward."""

    norms = ("self_attention_norm", "cross_attention_norm", "feed_forward_norm")

    def __call__(
        self, visual_embed: Tensor, text_embed: Tensor, time_embed: Tensor, rope: Any, sparse_params: Any
    ) -> Tensor:
        block = self.module
        why = self.refusal(visual_embed, time_embed, text_embed)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, visual_embed, text_embed, time_embed, rope, sparse_params
            )
        return self.stream(
            visual_embed,
            block.visual_modulation(time_embed),
            [
                (
                    "self_attention_norm",
                    lambda out: block.self_attention(out, rotary_emb=rope, sparse_params=sparse_params),
                ),
                ("cross_attention_norm", lambda out: block.cross_attention(out, encoder_hidden_states=text_embed)),
                ("feed_forward_norm", block.feed_forward),
            ],
        )


def kandinsky_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for the blocks of a Kandinsky5Transformer3DModel."""
    known = known_forwards(nn.LayerNorm)
    forwards = {
        diffusers_class("transformer_kandinsky", "Kandinsky5TransformerEncoderBlock"): KandinskyTextBlock,
        diffusers_class("transformer_kandinsky", "Kandinsky5TransformerDecoderBlock"): KandinskyBlock,
    }

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        for own, forward in forwards.items():
            if isinstance(block, own):
                return block_refusal(block, own) or forward(path, block, setting, known)
        return None

    return replacement
