"""CogVideoX's block between its layers: LayerNorm with weights, modulation by a row for each clip, gates, residuals.

Source of the computation: diffusers, models/transformers/cogvideox_transformer_3d.py (CogVideoXBlock) and
models/normalization.py (CogVideoXLayerNormZero).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, layer_norm_refusal, normed
from phys4d.kernels.integrate.diffusers.processor import Setting


class CogVideoXBlock(BlockForward):
    """A CogVideoXBlock's forward; video and text are two streams with rows of modulation of their own."""

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        block: Any = self.block
        text_tokens = encoder_hidden_states.shape[1]
        video, text = _modulation(block.norm1, temb)
        _, out = normed(block.norm1.norm, hidden_states, scale=video["scale"], shift=video["shift"])
        _, text_out = normed(block.norm1.norm, encoder_hidden_states, scale=text["scale"], shift=text["shift"])
        out, text_out = block.attn1(
            hidden_states=out, encoder_hidden_states=text_out, image_rotary_emb=image_rotary_emb,
            **(attention_kwargs or {}),
        )  # fmt: skip
        gates = video["gate"], text["gate"]
        video, text = _modulation(block.norm2, temb)
        last = video.pop("gate"), text.pop("gate")
        stream, out = normed(block.norm2.norm, hidden_states, out, gate=gates[0], **video)
        text_stream, text_out = normed(block.norm2.norm, encoder_hidden_states, text_out, gate=gates[1], **text)
        out = block.ff(torch.cat((text_out, out), dim=1))
        return (
            adaptive_norm(stream, out[:, text_tokens:], gate=last[0], norm=None)[0],
            adaptive_norm(text_stream, out[:, :text_tokens], gate=last[1], norm=None)[0],
        )


def _modulation(zero: Any, temb: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rows [B, C] of video and of text, by name, of a CogVideoXLayerNormZero."""
    rows = zero.linear(zero.silu(temb)).chunk(6, dim=1)
    names = ("shift", "scale", "gate")
    return dict(zip(names, rows[:3], strict=True)), dict(zip(names, rows[3:], strict=True))


def cogvideox_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for the blocks of a CogVideoXTransformer3DModel: see `swap.Blocks`."""
    from diffusers.models.normalization import CogVideoXLayerNormZero
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock as Known

    def refusal(zero: Any) -> str | None:
        if type(zero) is not CogVideoXLayerNormZero:
            return f"a norm that is not known ({type(zero).__name__})"
        if zero._forward_hooks or zero._forward_pre_hooks or "forward" in zero.__dict__:
            return "a norm with hooks, which would not run"
        return layer_norm_refusal(zero.norm, nn.LayerNorm)

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        if not isinstance(block, Known):
            return None
        why = block_refusal(block, Known) or refusal(block.norm1) or refusal(block.norm2)
        return why or CogVideoXBlock(path, block, setting)

    return replacement
