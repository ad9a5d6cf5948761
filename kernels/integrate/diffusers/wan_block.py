"""Wan's block between its layers: LayerNorm, modulation by a row for each clip, frame or token, gates and residuals.

Source of the computation: diffusers, models/transformers/transformer_wan.py (WanTransformerBlock,
WanTransformer3DModel.forward).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, layer_norm_refusal, normed
from phys4d.kernels.integrate.diffusers.processor import Setting


class WanBlock(BlockForward):
    """A WanTransformerBlock's forward: four passes over the stream in place of the model's float32 intermediates."""

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any = None
    ) -> Tensor:
        block: Any = self.block
        count, exact = hidden_states.shape[1], torch.promote_types(temb.dtype, torch.float32)
        if temb.ndim == 4 and count % temb.shape[1]:
            return self.pass_on(
                f"{temb.shape[1]} rows of modulation for {count} tokens", hidden_states, encoder_hidden_states, temb,
                rotary_emb,
            )  # fmt: skip
        rows = temb.flatten(0, -3)  # [B, 6, C] or [B * rows of a clip, 6, C]
        table = block.scale_shift_table
        shift, scale, gate = (table[:, :3] + rows[:, :3].to(exact)).unbind(1)
        _, out = normed(block.norm1, hidden_states, scale=scale, shift=shift)
        out = block.attn1(out, None, None, rotary_emb)
        stream, out = normed(block.norm2, hidden_states, out, gate=gate)
        out = block.attn2(out, encoder_hidden_states, None, None)
        shift, scale, gate = (table[:, 3:] + rows[:, 3:].to(exact)).unbind(1)
        stream, out = normed(block.norm3, stream, out, scale=scale, shift=shift)
        return adaptive_norm(stream, block.ffn(out), gate=gate, norm=None)[0]

    def own(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any = None) -> Any:
        """What the block's class computes, which needs a row for every token or one for each clip."""
        if temb.ndim == 4 and temb.shape[1] != hidden_states.shape[1]:
            temb = temb.repeat_interleave(hidden_states.shape[1] // temb.shape[1], dim=1)
        return super().own(hidden_states, encoder_hidden_states, temb, rotary_emb)


class FrameTimesteps:
    """Replaces the `forward` of a Wan condition embedder: embeds one timestep for each frame, not for each token.

    What the blocks get is a row [B, frames, 6 C] for each frame. Tokens of one frame with different timesteps fail an
    assertion on the device, for which the host does not wait.
    """

    def __init__(self, embedder: Any, patch: int) -> None:
        self.embedder, self.patch = embedder, patch
        self.below = embedder.__dict__.get("forward")
        self.frames = 0

    def before(self, transformer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Before every forward pass of the transformer: how many frames its tokens have."""
        video = options["hidden_states"] if "hidden_states" in options else arguments[0]
        self.frames = video.shape[2] // self.patch

    def __call__(
        self, timestep: Tensor, encoder_hidden_states: Tensor, encoder_hidden_states_image: Tensor | None = None,
        timestep_seq_len: int | None = None,
    ) -> Any:  # fmt: skip
        own = self.below or type(self.embedder).forward.__get__(self.embedder)
        if timestep_seq_len is None:
            return own(timestep, encoder_hidden_states, encoder_hidden_states_image)
        tokens = timestep_seq_len // self.frames
        frames = timestep.unflatten(0, (-1, tokens))
        torch._assert_async(
            (frames == frames[:, :1]).all(), "timestep_per='frame': tokens of one frame have different timesteps"
        )
        embedded, *rest = own(
            frames[:, 0], encoder_hidden_states, encoder_hidden_states_image, timestep_seq_len=self.frames
        )
        return embedded.repeat_interleave(tokens, dim=1), *rest  # the transformer's last norm wants a row per token

    def swap(self) -> None:
        """Puts itself in its embedder's place."""
        self.embedder.forward = self

    def undo(self) -> None:
        """Puts back what was there."""
        if self.below is None:
            del self.embedder.forward
        else:
            self.embedder.forward = self.below


def wan_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for the blocks of a WanTransformer3DModel: see `swap.Blocks`."""
    from diffusers.models.normalization import FP32LayerNorm
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        if not isinstance(block, WanTransformerBlock):
            return None
        why = (
            block_refusal(block, WanTransformerBlock)
            or layer_norm_refusal(block.norm1, FP32LayerNorm)
            or layer_norm_refusal(block.norm2, FP32LayerNorm, nn.Identity)
            or layer_norm_refusal(block.norm3, FP32LayerNorm)
        )
        return why or WanBlock(path, block, setting)

    return replacement
