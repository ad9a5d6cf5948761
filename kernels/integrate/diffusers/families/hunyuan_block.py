"""HunyuanVideo's blocks between their layers: LayerNorm without weights, modulation by a row for each clip, gates.

Source of the computation: diffusers, models/transformers/transformer_hunyuan_video.py (HunyuanVideoTransformerBlock,
HunyuanVideoSingleTransformerBlock), transformer_hunyuan_video15.py and models/normalization.py (AdaLayerNormZero,
AdaLayerNormZeroSingle).
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

_REPLACED = ("HunyuanVideoTokenReplaceTransformerBlock", "HunyuanVideoTokenReplaceSingleTransformerBlock")


class _ZeroBlock(BlockForward):
    """A block whose first norms are AdaLayerNormZero: a norm and the rows of modulation in one module."""

    def __init__(self, path: str, module: Any, setting: Setting, known: Known, zeros: Known) -> None:
        super().__init__(path, module, setting, known)
        self.zeros = zeros

    def bypass(self, norm: Any, device: torch.device | None) -> str | None:
        """Of a norm, or of an AdaLayerNormZero and the norm inside of it."""
        inner = norm._modules.get("norm")
        if inner is None:
            return super().bypass(norm, device)
        why = not_plain(norm, self.zeros) or super().bypass(inner, device)
        return "it embeds the timestep itself" if why is None and getattr(norm, "emb", None) is not None else why

    def zero(self, name: str, x: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
        """What the AdaLayerNormZero of this name computes: the normed tokens [B, S, C] and rows [B, C]."""
        norm = submodule(self.module, name)
        why = self.bypass(norm, x.device)
        if why is not None:
            self.setting.called.setdefault(self.path, f"{name}: {why}")
            return norm(x, emb=temb)  # type: ignore[no-any-return]
        shift, scale, *rows = norm.linear(norm.silu(temb)).tensor_split(norm.linear.out_features // x.shape[2], dim=1)
        own = norm.norm._parameters
        affine = {"weight": own["weight"], "bias": own["bias"], "epsilon": norm.norm.eps}
        return adaptive_norm(rows_of(x), shift=shift, scale=scale, **affine)[1], *rows


class HunyuanBlock(_ZeroBlock):
    """A HunyuanVideoTransformerBlock's forward: video and text are two streams with layers of their own."""

    norms = ("norm1", "norm1_context", "norm2", "norm2_context")

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, attention_mask: Tensor | None = None,
        freqs_cis: Any = None, *arguments: Any, **options: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        block = self.module
        why = unfit(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, temb, attention_mask, freqs_cis, *arguments, **options
            )
        video, *rows = self.zero("norm1", hidden_states, temb)
        text, *text_rows = self.zero("norm1_context", encoder_hidden_states, temb)
        video, text = block.attn(
            hidden_states=video, encoder_hidden_states=text, attention_mask=attention_mask, image_rotary_emb=freqs_cis
        )
        return (
            self._after("norm2", block.ff, hidden_states, video, rows),
            self._after("norm2_context", block.ff_context, encoder_hidden_states, text, text_rows),
        )

    def _after(self, name: str, layer: Any, x: Tensor, y: Tensor, rows: list[Tensor]) -> Tensor:
        """A stream [B, S, C] after attention's part y of it and the layer."""
        gate, shift, scale, last_gate = rows
        stream, out = self.normed(name, x, y, gate=gate, scale=scale, shift=shift)
        return adaptive_norm(stream, layer(out), gate=last_gate, norm=None)[0]


class HunyuanSingleBlock(_ZeroBlock):
    """A HunyuanVideoSingleTransformerBlock's forward: one stream, attention and MLP side by side."""

    norms = ("norm",)

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None, *arguments: Any, **options: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        block = self.module
        why = unfit(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, temb, attention_mask, image_rotary_emb, *arguments, **options
            )
        count = hidden_states.shape[1]
        stream = torch.cat((hidden_states, encoder_hidden_states), dim=1)
        out, gate = self.zero("norm", stream, temb)
        wide = block.act_mlp(block.proj_mlp(out))
        attended = block.attn(
            hidden_states=out[:, :count], encoder_hidden_states=out[:, count:], attention_mask=attention_mask,
            image_rotary_emb=image_rotary_emb,
        )  # fmt: skip
        out = block.proj_out(torch.cat((torch.cat(attended, dim=1), wide), dim=2))
        stream, _ = adaptive_norm(stream, out, gate=gate, norm=None)
        return stream[:, :count], stream[:, count:]


def hunyuan_blocks(
    module: str = "transformer_hunyuan_video", kind: str = "HunyuanVideoTransformerBlock"
) -> Callable[[Any, Setting], Callable[[str, Any], BlockForward | str | None]]:
    """New forwards for the blocks of two streams of this class, in a module of diffusers.models.transformers, and for
    HunyuanVideo's blocks of one stream."""

    def blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
        from diffusers.models.normalization import AdaLayerNormZero, AdaLayerNormZeroSingle

        known, zeros = known_forwards(nn.LayerNorm), known_forwards(AdaLayerNormZero, AdaLayerNormZeroSingle)
        forwards = {
            diffusers_class(module, kind): HunyuanBlock,
            diffusers_class("transformer_hunyuan_video", "HunyuanVideoSingleTransformerBlock"): HunyuanSingleBlock,
        }

        def replacement(path: str, block: Any) -> BlockForward | str | None:
            for own, forward in forwards.items():
                if isinstance(block, own):
                    return block_refusal(block, own) or forward(path, block, setting, known, zeros)
            return "its first frame has rows of modulation of its own" if type(block).__name__ in _REPLACED else None

        return replacement

    return blocks
