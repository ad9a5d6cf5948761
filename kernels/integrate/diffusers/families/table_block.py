"""Blocks of one form in LTX, Allegro and SANA-Video: a table of six rows is added to the embedded time.

Norm, modulation, attention and gate; attention to text without a norm; norm, modulation, MLP and gate.

Source of the computation: diffusers, models/transformers/transformer_ltx.py (LTXVideoTransformerBlock),
transformer_allegro.py (AllegroTransformerBlock) and transformer_sana_video.py (SanaVideoTransformerBlock).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, rows_of
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.setting import Setting

Layer = Callable[[Tensor], Tensor]


class TableBlock(BlockForward):
    """What the three have in common; a class for each gives the arguments of its layers."""

    norms = ("norm1", "norm2")

    def refusal(self, x: Tensor, text: Tensor | None, temb: Tensor | None) -> str | None:
        """Why this call is for the block's own code; None if it is not."""
        table = self.module.scale_shift_table
        if temb is None or x.ndim != 3 or x.shape[1] < 2:
            return f"tokens {list(x.shape)}" if temb is not None else "no embedded time"
        why = unfit(x, text, temb, table)
        if why is None and table.device != x.device:
            why = f"a table of modulation on {table.device}"
        rows = temb.numel() // (table.numel() * x.shape[0])
        if why is None and (rows not in (1, x.shape[1]) or temb.shape[0] != x.shape[0]):
            why = f"embedded time {list(temb.shape)} for {x.shape[1]} tokens"
        return why

    def stream(self, x: Tensor, temb: Tensor, attend: Layer, attend_text: Layer, feed: Layer) -> Tensor:
        """The tokens [B, S, C] after the block, whose temb holds six rows [C] for each clip or for each token."""
        table = self.module.scale_shift_table
        shift, scale, gate, last_shift, last_scale, last_gate = (table + temb.reshape(-1, *table.shape)).unbind(1)
        x = rows_of(x)
        _, out = self.normed("norm1", x, scale=scale, shift=shift)
        x, _ = adaptive_norm(x, attend(out), gate=gate, norm=None)
        x, out = self.normed("norm2", x, attend_text(x), scale=last_scale, shift=last_shift)
        return adaptive_norm(x, feed(out), gate=last_gate, norm=None)[0]


class LTXBlock(TableBlock):
    """An LTXVideoTransformerBlock's forward, whose norms are RMS norms without weights."""

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        block = self.module
        why = self.refusal(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, temb, image_rotary_emb, encoder_attention_mask
            )
        return self.stream(
            hidden_states,
            temb,
            lambda x: block.attn1(hidden_states=x, encoder_hidden_states=None, image_rotary_emb=image_rotary_emb),
            lambda x: block.attn2(
                x, encoder_hidden_states=encoder_hidden_states, image_rotary_emb=None,
                attention_mask=encoder_attention_mask,
            ),
            block.ff,
        )  # fmt: skip


class AllegroBlock(TableBlock):
    """An AllegroTransformerBlock's forward."""

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, temb: Tensor | None = None,
        attention_mask: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:  # fmt: skip
        block = self.module
        why = self.refusal(hidden_states, encoder_hidden_states, temb)
        if block.attn2 is None:
            why = "no attention to text"
        if why is not None or temb is None:
            return self.pass_on(  # type: ignore[no-any-return]
                str(why), hidden_states, encoder_hidden_states, temb, attention_mask, encoder_attention_mask,
                image_rotary_emb,
            )  # fmt: skip
        return self.stream(
            hidden_states,
            temb,
            lambda x: block.attn1(
                x, encoder_hidden_states=None, attention_mask=attention_mask, image_rotary_emb=image_rotary_emb
            ),
            lambda x: block.attn2(
                x, encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask,
                image_rotary_emb=None,
            ),
            block.ff,
        )  # fmt: skip


class SanaBlock(TableBlock):
    """A SanaVideoTransformerBlock's forward, whose MLP convolves the video [B, T, H, W, C]."""

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None, timestep: Tensor | None = None, frames: Any = None,
        height: Any = None, width: Any = None, rotary_emb: Any = None,
    ) -> Tensor:  # fmt: skip
        block = self.module
        why = self.refusal(hidden_states, encoder_hidden_states, timestep)
        if getattr(block, "attn2", None) is None:
            why = "no attention to text"
        if why is not None or timestep is None:
            return self.pass_on(  # type: ignore[no-any-return]
                str(why), hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, timestep,
                frames, height, width, rotary_emb,
            )  # fmt: skip
        return self.stream(
            hidden_states,
            timestep,
            lambda x: block.attn1(x, rotary_emb=rotary_emb),
            lambda x: block.attn2(
                x, encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask
            ),
            lambda x: block.ff(x.unflatten(1, (frames, height, width))).flatten(1, 3),
        )


def table_blocks(
    module: str, kind: str, forward: type[TableBlock]
) -> Callable[[Any, Setting], Callable[[str, Any], BlockForward | str | None]]:
    """New forwards for the blocks of this class, which stands in a module of diffusers.models.transformers."""

    def blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
        from diffusers.models.normalization import RMSNorm

        own = diffusers_class(module, kind)
        known = known_forwards(RMSNorm) if forward is LTXBlock else known_forwards(nn.LayerNorm)

        def replacement(path: str, block: Any) -> BlockForward | str | None:
            if not isinstance(block, own):
                return None
            return block_refusal(block, own) or forward(path, block, setting, known)

        return replacement

    return blocks
