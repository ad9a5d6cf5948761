"""Wan's block between its layers: LayerNorm, modulation by a row for each clip, frame or token, gates and residuals.

Source of the computation: diffusers, models/transformers/transformer_wan.py (WanTransformerBlock,
WanTransformer3DModel.forward).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, unfit
from phys4d.kernels.integrate.diffusers.divided import gathered
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.forwards import ForwardReplacement, Place, innermost
from phys4d.kernels.integrate.diffusers.setting import Setting


class WanBlock(BlockForward):
    """A WanTransformerBlock's forward: four passes over the stream in place of the model's float32 intermediates."""

    norms = ("norm1", "norm2", "norm3")
    in_float32 = True

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any = None
    ) -> Any:
        why = self.refusal(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            return self.pass_on(why, hidden_states, encoder_hidden_states, temb, rotary_emb)
        return self.stream(hidden_states, encoder_hidden_states, temb, rotary_emb)

    def refusal(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor) -> str | None:
        """Why this call is for the block's own code; None if it is not. With divided tokens their number is not looked
        at, which the first block alone gets."""
        table = self.module.scale_shift_table
        why = unfit(hidden_states, encoder_hidden_states, temb, table)
        if why is None and table.device != hidden_states.device:
            why = f"a table of modulation on {table.device}"
        if why is None and self.setting.divided is None:
            why = _odd_rows(temb, hidden_states.shape[1])
        return why

    def stream(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any,
        attention_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The tokens [B, S, C] after the block; temb is [B, 6, C] or [B, rows, 6, C], where rows divides S."""
        block, table = self.module, self.module.scale_shift_table
        exact = torch.promote_types(temb.dtype, torch.float32)
        divided, by_token = self.setting.divided, None
        if divided is not None:
            hidden_states = divided.enter(hidden_states) if self.enters else hidden_states
            if why := _odd_rows(temb, divided.parts.count):
                self.setting.pass_on(self.path, why)
            if temb.ndim == 4:
                by_token = divided.token_rows(temb.shape[0], temb.shape[1], temb.device)
        rows = temb.flatten(0, -3)  # [B, 6, C] or [B * rows of a clip, 6, C]
        shift, scale, gate = (table[:, :3] + rows[:, :3].to(exact)).unbind(1)
        _, out = self.normed("norm1", hidden_states, scale=scale, shift=shift, rows=by_token)
        out = block.attn1(out, None, attention_mask, rotary_emb)
        stream, out = self.normed("norm2", hidden_states, out, gate=gate, rows=by_token)
        out = block.attn2(out, encoder_hidden_states, None, None)
        shift, scale, gate = (table[:, 3:] + rows[:, 3:].to(exact)).unbind(1)
        stream, out = self.normed("norm3", stream, out, scale=scale, shift=shift, rows=by_token)
        out, _ = adaptive_norm(stream, block.ffn(out), gate=gate, norm=None, rows=by_token)
        return gathered(out, divided.parts) if divided is not None and self.leaves else out

    def own(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, *arguments: Any) -> Any:
        """What the block's class computes, which needs a row for every token or one for each clip."""
        if temb.ndim == 4 and hidden_states.shape[1] > temb.shape[1]:
            temb = temb.repeat_interleave(hidden_states.shape[1] // temb.shape[1], dim=1)
        return super().own(hidden_states, encoder_hidden_states, temb, *arguments)


def _odd_rows(temb: Tensor, count: int) -> str | None:
    if temb.ndim == 4 and count % temb.shape[1]:
        return f"{temb.shape[1]} rows of modulation for {count} tokens"
    return None


class FrameTimesteps(ForwardReplacement):
    """Replaces the `forward` of a Wan condition embedder: embeds one timestep for each frame, not for each token.

    What the blocks get is a row [B, frames, 6 C] for each frame. Tokens of one frame with different timesteps fail an
    assertion on the device, for which the host does not wait. It computes what was there before wherever the
    forward of a block is not a `WanBlock`, which alone reads such rows.
    """

    def __init__(self, path: str, transformer: Any) -> None:
        super().__init__(path, transformer.condition_embedder)
        self.frames = 0

    def __call__(
        self, timestep: Tensor, encoder_hidden_states: Tensor, encoder_hidden_states_image: Tensor | None = None,
        timestep_seq_len: int | None = None,
    ) -> Any:  # fmt: skip
        if timestep_seq_len is None or not self.frames:
            return self.original(timestep, encoder_hidden_states, encoder_hidden_states_image, timestep_seq_len)
        tokens = timestep_seq_len // self.frames
        frames = timestep.unflatten(0, (-1, tokens))
        torch._assert_async(
            (frames == frames[:, :1]).all(), "timestep_per='frame': tokens of one frame have different timesteps"
        )
        embedded, *rest = self.original(
            frames[:, 0], encoder_hidden_states, encoder_hidden_states_image, timestep_seq_len=self.frames
        )
        return embedded.repeat_interleave(tokens, dim=1), *rest  # the transformer's last norm wants a row per token


class FrameCount:
    """Before every forward pass of the transformer: how many frames its tokens have, 0 where a block cannot read rows
    of frames."""

    def __init__(self, transformer: Any, timesteps: FrameTimesteps) -> None:
        self.timesteps = timesteps
        self.handle = transformer.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, transformer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        video = options["hidden_states"] if "hidden_states" in options else arguments[0]
        served = torch.compiler.is_compiling() or blocks_read_frames(transformer)
        self.timesteps.frames = video.shape[2] // transformer.config.patch_size[0] if served else 0

    def undo(self) -> None:
        """Removes itself from the transformer's hooks."""
        self.handle.remove()


def blocks_read_frames(transformer: Any) -> bool:
    """Whether every block's forward is one that reads a row of modulation for each frame."""
    return all(isinstance(innermost(block).value, WanBlock) for block in transformer.blocks)


def wan_timesteps(path: str, transformer: Any, setting: Setting) -> list[Any] | str:
    """Replacements that embed one timestep for each frame, placed; or why they cannot be."""
    if not blocks_read_frames(transformer):
        return "a block was not swapped, and cannot read one row per frame"
    timesteps = FrameTimesteps(path, transformer)
    timesteps.swap(Place(transformer.condition_embedder, "forward"))
    return [timesteps, FrameCount(transformer, timesteps)]


def wan_blocks(
    module: str = "transformer_wan", kind: str = "WanTransformerBlock", forward: type[WanBlock] = WanBlock
) -> Callable[[Any, Setting], Callable[[str, Any], BlockForward | str | None]]:
    """New forwards for the blocks of this class, which stands in a module of diffusers.models.transformers."""

    def blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
        from diffusers.models.normalization import FP32LayerNorm

        own = diffusers_class(module, kind)
        known = known_forwards(FP32LayerNorm)

        def replacement(path: str, block: Any) -> BlockForward | str | None:
            if not isinstance(block, own):
                return None
            return block_refusal(block, own) or forward(path, block, setting, known)

        return replacement

    return blocks
