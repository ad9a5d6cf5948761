"""CogVideoX's block between its layers: LayerNorm with weights, modulation by a row for each clip, gates, residuals.

Source of the computation: diffusers, models/transformers/cogvideox_transformer_3d.py (CogVideoXBlock) and
models/normalization.py (CogVideoXLayerNormZero).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import TokenRows, adaptive_norm
from phys4d.kernels.integrate.diffusers.blocks import BlockForward, block_refusal, rows_of
from phys4d.kernels.integrate.diffusers.bypass import Known, known_forwards, not_plain, refusal, submodule, unfit
from phys4d.kernels.integrate.diffusers.divided import DividedTokens, gathered
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.setting import Setting


class CogVideoXBlock(BlockForward):
    """A CogVideoXBlock's forward; video and text are two streams with rows of modulation of their own.

    Where tokens are divided, they are one stream, this rank's part of text and video, of which each token takes a row
    of its kind.
    """

    norms = ("norm1", "norm2")

    def __init__(self, path: str, module: Any, setting: Setting, known: Known, zeros: Known) -> None:
        super().__init__(path, module, setting, known)
        self.zeros = zeros

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        block = self.module
        why = unfit(hidden_states, encoder_hidden_states, temb)
        if why is not None:
            given = () if attention_kwargs is None else (attention_kwargs,)  # a ConsisIDBlock has no such argument
            return self.pass_on(why, hidden_states, encoder_hidden_states, temb, image_rotary_emb, *given)
        if self.setting.divided is not None:
            return self.part(
                self.setting.divided, hidden_states, encoder_hidden_states, temb, image_rotary_emb,
                attention_kwargs or {},
            )  # fmt: skip
        text_tokens = encoder_hidden_states.shape[1]
        streams = rows_of(hidden_states), rows_of(encoder_hidden_states)
        _, (out, text_out), gates = self.between("norm1", streams, None, (None, None), temb)
        outs = block.attn1(
            hidden_states=out, encoder_hidden_states=text_out, image_rotary_emb=image_rotary_emb,
            **(attention_kwargs or {}),
        )  # fmt: skip
        streams, (out, text_out), gates = self.between("norm2", streams, outs, gates, temb)
        out = block.ff(torch.cat((text_out, out), dim=1))
        return (
            adaptive_norm(streams[0], out[:, text_tokens:], gate=gates[0], norm=None)[0],
            adaptive_norm(streams[1], out[:, :text_tokens], gate=gates[1], norm=None)[0],
        )

    def part(
        self, divided: DividedTokens, video: Tensor, text: Tensor, temb: Tensor, rotation: Any, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The same for this rank's part of the tokens of text and video: behind the first block `video` is that part,
        and so it is of what is returned but behind the last block."""
        block = self.module
        stream = divided.enter_joint(video, text) if self.enters else video
        rows = divided.stream_rows(len(temb), temb.device)
        stream, out, gate = self.between_joint("norm1", stream, None, None, temb, rows)
        out, _ = block.attn1(hidden_states=out, encoder_hidden_states=text, image_rotary_emb=rotation, **options)
        stream, out, gate = self.between_joint("norm2", stream, out, gate, temb, rows)
        stream, _ = adaptive_norm(stream, block.ff(out), gate=gate, norm=None, rows=rows)
        if not self.leaves:
            return stream, text  # as it came: of it only the length is read
        whole = gathered(stream, divided.parts)
        return whole[:, divided.text :], whole[:, : divided.text]

    def between_joint(
        self, name: str, x: Tensor, y: Tensor | None, gate: Tensor | None, temb: Tensor, rows: TokenRows
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `between` for one stream x of text and video: the stream, what goes into the next layer, the next gate."""
        zero = submodule(self.module, name)
        if (why := self.bypass(zero, x.device)) is not None:
            self.setting.pass_on(self.path, f"{name}: {why}")  # which refuses: the norm takes two streams
        table = zero.linear(zero.silu(temb)).unflatten(1, (2, 3, -1)).flatten(0, 1)  # of a clip: video's, text's
        shift, scale, following = table.unbind(1)
        own = zero.norm._parameters
        affine = {"weight": own["weight"], "bias": own["bias"], "epsilon": zero.norm.eps}
        stream, out = adaptive_norm(x, y, gate=gate, **affine, scale=scale, shift=shift, rows=rows)
        return stream, out, following

    def bypass(self, norm: Any, device: torch.device | None) -> str | None:
        """Of a CogVideoXLayerNormZero and the norm inside of it."""
        return not_plain(norm, self.zeros) or refusal(submodule(norm, "norm"), self.known, device)

    def between(self, name: str, streams: Any, outs: Any, gates: Any, temb: Tensor) -> tuple[Any, Any, Any]:
        """Video and text through their gates, residuals and the norm of this name; the streams [B, S, C], what goes
        into the next layer, and the next gates [B, C]."""
        zero = submodule(self.module, name)
        outs = outs or (None, None)
        why = self.bypass(zero, streams[0].device)
        if why is not None:
            self.setting.called.setdefault(self.path, f"{name}: {why}")
            if outs[0] is not None:
                streams = tuple(
                    adaptive_norm(x, y, gate=gate, norm=None)[0]
                    for x, y, gate in zip(streams, outs, gates, strict=True)
                )
            *normed, gate, text_gate = zero(*streams, temb)
            return streams, normed, (gate.squeeze(1), text_gate.squeeze(1))
        shift, scale, gate, *text = zero.linear(zero.silu(temb)).chunk(6, dim=1)
        own, rows = zero.norm._parameters, ((shift, scale), text[:2])
        pairs = [
            adaptive_norm(
                x, y, gate=g, weight=own["weight"], bias=own["bias"], epsilon=zero.norm.eps, shift=a, scale=b
            )
            for x, y, g, (a, b) in zip(streams, outs, gates, rows, strict=True)
        ]
        return *zip(*pairs, strict=True), (gate, text[2])  # type: ignore[return-value]


def cogvideox_blocks(
    module: str = "cogvideox_transformer_3d", kind: str = "CogVideoXBlock"
) -> Callable[[Any, Setting], Callable[[str, Any], BlockForward | str | None]]:
    """New forwards for the blocks of this class, which stands in a module of diffusers.models.transformers."""

    def blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
        from diffusers.models.normalization import CogVideoXLayerNormZero

        own = diffusers_class(module, kind)
        norms, zeros = known_forwards(nn.LayerNorm), known_forwards(CogVideoXLayerNormZero)

        def replacement(path: str, block: Any) -> BlockForward | str | None:
            if not isinstance(block, own):
                return None
            return block_refusal(block, own) or CogVideoXBlock(path, block, setting, norms, zeros)

        return replacement

    return blocks
