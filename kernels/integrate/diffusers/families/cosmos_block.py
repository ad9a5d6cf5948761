"""Cosmos' block between its layers: LayerNorm without weights, modulation by small matrices of its own, gates.

Source of the computation: diffusers, models/transformers/transformer_cosmos.py (CosmosTransformerBlock,
CosmosAdaLayerNormZero).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, rows_of
from phys4d.kernels.integrate.diffusers.bypass import Known, known_forwards, not_plain, submodule, unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.setting import Setting


class CosmosBlock(BlockForward):
    """A CosmosTransformerBlock's forward: attention, attention to text and MLP, each after such a norm."""

    norms = ("norm1", "norm2", "norm3")

    def __init__(self, path: str, module: Any, setting: Setting, known: Known, zeros: Known) -> None:
        super().__init__(path, module, setting, known)
        self.zeros = zeros

    def bypass(self, norm: Any, device: torch.device | None) -> str | None:
        """Of a CosmosAdaLayerNormZero and the norm inside of it."""
        return not_plain(norm, self.zeros) or super().bypass(submodule(norm, "norm"), device)

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Any, embedded_timestep: Tensor, temb: Tensor | None = None,
        image_rotary_emb: Any = None, extra_pos_emb: Tensor | None = None, attention_mask: Any = None,
        controlnet_residual: Tensor | None = None, latents: Tensor | None = None, block_idx: int | None = None,
    ) -> Any:  # fmt: skip
        block, time = self.module, embedded_timestep
        why = unfit(hidden_states, time, temb, extra_pos_emb)
        if block.before_proj is not None or block.after_proj is not None or controlnet_residual is not None:
            why = "a block of a controlled Cosmos"
        if why is None and (hidden_states.ndim != 3 or (time.ndim == 3 and time.shape[1] != hidden_states.shape[1])):
            why = f"embedded time {list(time.shape)} for tokens {list(hidden_states.shape)}"
        if why is None and temb is not None and temb.shape[:-1] != time.shape[:-1]:
            why = f"embedded time {list(time.shape)} and {list(temb.shape)}"
        if why is not None:
            return self.pass_on(
                why, hidden_states, encoder_hidden_states, time, temb, image_rotary_emb, extra_pos_emb,
                attention_mask, controlnet_residual, latents, block_idx,
            )  # fmt: skip
        x = hidden_states if extra_pos_emb is None else hidden_states + extra_pos_emb
        x, out, gate = self._between("norm1", rows_of(x), None, None, time, temb)
        out = block.attn1(out, image_rotary_emb=image_rotary_emb)
        x, out, gate = self._between("norm2", x, out, gate, time, temb)
        out = block.attn2(out, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask)
        x, out, gate = self._between("norm3", x, out, gate, time, temb)
        return adaptive_norm(x, block.ff(out), gate=gate, norm=None)[0]

    def _between(
        self, name: str, x: Tensor, y: Tensor | None, gate: Tensor | None, time: Tensor, temb: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The stream x + gate * y [B, S, C], what goes into the next layer, and the next gates [rows, C]."""
        zero = submodule(self.module, name)
        why = self.bypass(zero, x.device)
        if why is not None:
            self.setting.called.setdefault(self.path, f"{name}: {why}")
            stream = x if y is None else adaptive_norm(x, y, gate=gate, norm=None)[0]
            out, gate = zero(stream, time, temb)
            return stream, out, gate.flatten(0, 1)
        rows = zero.linear_2(zero.linear_1(zero.activation(time)))
        rows = rows if temb is None else rows + temb
        shift, scale, next_gate = rows.reshape(-1, rows.shape[-1]).chunk(3, dim=-1)
        stream, out = adaptive_norm(x, y, gate=gate, epsilon=zero.norm.eps, scale=scale, shift=shift)
        return stream, out, next_gate


def cosmos_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for the blocks of a CosmosTransformer3DModel."""
    own = diffusers_class("transformer_cosmos", "CosmosTransformerBlock")
    zeros = known_forwards(diffusers_class("transformer_cosmos", "CosmosAdaLayerNormZero"))
    norms = known_forwards(nn.LayerNorm)

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        if not isinstance(block, own):
            return None
        return block_refusal(block, own) or CosmosBlock(path, block, setting, norms, zeros)

    return replacement
