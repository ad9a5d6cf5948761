"""Mochi's block between its layers: RMS norms without weights of the stream and of what each layer computed, gates.

Source of the computation: diffusers, models/transformers/transformer_mochi.py (MochiTransformerBlock,
MochiRMSNormZero, MochiModulatedRMSNorm).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, rows_of
from phys4d.kernels.integrate.diffusers.bypass import Known, known_forwards, not_plain, submodule, unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.setting import Setting


class MochiBlock(BlockForward):
    """A MochiTransformerBlock's forward: video and text are two streams with layers of their own."""

    norms: tuple[str, ...] = (
        "norm1", "norm1_context", "norm2", "norm2_context", "norm3", "norm3_context", "norm4", "norm4_context",
    )  # fmt: skip

    def __init__(self, path: str, module: Any, setting: Setting, known: Known, outer: Known) -> None:
        super().__init__(path, module, setting, known)
        self.outer = outer
        if module.context_pre_only:  # the last block: of the text it norms what goes into attention, by another module
            self.norms = tuple(name for name in self.norms if not name.endswith("_context"))

    def bypass(self, norm: Any, device: torch.device | None) -> str | None:
        """Of one of Mochi's norms and the RMS norm inside of it."""
        return not_plain(norm, self.outer) or super().bypass(submodule(norm, "norm"), device)

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, encoder_attention_mask: Tensor,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        block = self.module
        why = unfit(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, temb, encoder_attention_mask, image_rotary_emb
            )
        video, *rows = self._zero("norm1", rows_of(hidden_states), temb)
        if block.context_pre_only:
            text = block.norm1_context(encoder_hidden_states, temb)
        else:
            text, *text_rows = self._zero("norm1_context", rows_of(encoder_hidden_states), temb)
        video, text = block.attn1(
            hidden_states=video, encoder_hidden_states=text, image_rotary_emb=image_rotary_emb,
            attention_mask=encoder_attention_mask,
        )  # fmt: skip
        video = self._after("", block.ff, rows_of(hidden_states), video, rows)
        if block.context_pre_only:
            return video, encoder_hidden_states
        return video, self._after("_context", block.ff_context, rows_of(encoder_hidden_states), text, text_rows)

    def _called(self, name: str, device: torch.device) -> bool:
        why = self.bypass(submodule(self.module, name), device)
        if why is not None:
            self.setting.called.setdefault(self.path, f"{name}: {why}")
        return why is not None

    def _zero(self, name: str, x: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
        """The normed tokens [B, S, C], and the gate, the scale and the gate [B, C] of what follows."""
        zero = submodule(self.module, name)
        if self._called(name, x.device):
            return zero(x, temb)  # type: ignore[no-any-return]
        scale, *rows = zero.linear(zero.silu(temb)).chunk(4, dim=1)
        return adaptive_norm(x, norm="rms", epsilon=zero.norm.eps, scale=scale)[1], *rows

    def _branch(self, name: str, y: Tensor) -> Tensor:
        """What a layer computed, [B, S, C], after its norm."""
        norm = submodule(self.module, name)
        if self._called(name, y.device):
            return norm(y).to(y.dtype)  # type: ignore[no-any-return]
        return adaptive_norm(rows_of(y), norm="rms", epsilon=norm.norm.eps)[1]

    def _after(self, stream: str, layer: Any, x: Tensor, y: Tensor, rows: list[Tensor]) -> Tensor:
        """A stream [B, S, C], "" for the video, after attention's part y of it and the layer."""
        gate, scale, last_gate = rows
        y, norm = self._branch(f"norm2{stream}", y), submodule(self.module, f"norm3{stream}")
        if self._called(f"norm3{stream}", x.device):
            x, _ = adaptive_norm(x, y, gate=gate.tanh(), norm=None)
            out = norm(x, 1 + scale.unsqueeze(1).to(torch.float32)).to(x.dtype)
        else:
            x, out = adaptive_norm(x, y, gate=gate.tanh(), norm="rms", epsilon=norm.norm.eps, scale=scale)
        y = self._branch(f"norm4{stream}", layer(out))
        return adaptive_norm(x, y, gate=last_gate.tanh(), norm=None)[0]


def mochi_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for the blocks of a MochiTransformer3DModel."""
    from diffusers.models.normalization import RMSNorm

    own, *outer = (
        diffusers_class("transformer_mochi", name)
        for name in ("MochiTransformerBlock", "MochiRMSNormZero", "MochiModulatedRMSNorm")
    )
    norms, zeros = known_forwards(RMSNorm), known_forwards(*outer)

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        if not isinstance(block, own):
            return None
        return block_refusal(block, own) or MochiBlock(path, block, setting, norms, zeros)

    return replacement
