"""Models that compute as Wan: VACE, Animate, SkyReels V2 and ChronoEdit; what differs from Wan is here.

Source of the computation: diffusers, models/transformers/transformer_wan_vace.py, transformer_wan_animate.py,
transformer_skyreels_v2.py and transformer_chronoedit.py.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.integrate.diffusers.blocks import BlockForward
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.families.wan import WAN, wan_attention
from phys4d.kernels.integrate.diffusers.families.wan_block import WanBlock, wan_blocks
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    called,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class VACEBlock(WanBlock):
    """A WanVACETransformerBlock's forward: Wan's on the stream of control, between two projections."""

    def __call__(  # type: ignore[override]
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, control_hidden_states: Tensor, temb: Tensor,
        rotary_emb: Any,
    ) -> tuple[Tensor | None, Tensor]:  # fmt: skip
        block = self.module
        why = self.refusal(hidden_states, encoder_hidden_states, temb) or unfit(control_hidden_states)
        if temb.ndim == 4:
            why = "a row of modulation for each token"
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, control_hidden_states, temb, rotary_emb
            )
        control = control_hidden_states
        if block.proj_in is not None:
            control = block.proj_in(control) + hidden_states
        control = self.stream(control, encoder_hidden_states, temb, rotary_emb)
        return None if block.proj_out is None else block.proj_out(control), control

    def own(self, *arguments: Any) -> Any:  # type: ignore[override]
        """What the block's class computes."""
        return BlockForward.own(self, *arguments)


class SkyReelsBlock(WanBlock):
    """A SkyReelsV2TransformerBlock's forward, whose rows of modulation are [B, 6, S, C], with a mask of frames."""

    def __call__(  # type: ignore[override]
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any,
        attention_mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        rows = temb.transpose(1, 2) if temb.ndim == 4 else temb
        why = self.refusal(hidden_states, encoder_hidden_states, rows)
        if why is not None:
            return self.pass_on(  # type: ignore[no-any-return]
                why, hidden_states, encoder_hidden_states, temb, rotary_emb, attention_mask
            )
        return self.stream(hidden_states, encoder_hidden_states, rows, rotary_emb, attention_mask)

    def own(self, *arguments: Any) -> Any:  # type: ignore[override]
        """What the block's class computes."""
        return BlockForward.own(self, *arguments)


class FaceProcessor(Processor):
    """Attention of each frame's tokens to the same frame's motion of a face, [B, T, N, C], with the norm per head."""

    norms = ("norm_q", "norm_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        from diffusers.models.transformers.transformer_wan import _get_qkv_projections

        why = unfit(hidden_states, encoder_hidden_states, attention_mask)
        if why or encoder_hidden_states is None:
            return self.pass_on(  # type: ignore[no-any-return]
                why or "no motion", attn, hidden_states, encoder_hidden_states, attention_mask
            )
        clips, frames = encoder_hidden_states.shape[:2]
        tokens = attn.pre_norm_q(hidden_states)
        motion = attn.pre_norm_kv(encoder_hidden_states).flatten(1, 2)
        q, k, v = _get_qkv_projections(attn, tokens, motion)
        norm = self.qk_norm("rms", attn, q)
        q, k, v = (heads_of(x, attn) for x in (q, k, v))
        if norm is None:
            q, k = called(attn.norm_q, q), called(attn.norm_k, k)
        q, k, v = (x.unflatten(1, (frames, -1)).flatten(0, 1) for x in (q, k, v))
        out = attention(q, k, v, qk_norm=norm, backend=self.setting.backend).flatten(2, 3).to(q.dtype)
        out = attn.to_out(out.unflatten(0, (clips, frames)).flatten(1, 2))
        return out if attention_mask is None else out * attention_mask.flatten(start_dim=1)


def animate(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a WanAnimateTransformer3DModel: Wan's, and those of its blocks of the face."""
    of_wan = wan_attention("transformer_wan_animate")(transformer, setting)
    own, known = diffusers_class("transformer_wan_animate", "WanAnimateFaceBlockAttnProcessor"), known_qk_norms("rms")

    def replacement(path: str, attn: Any) -> Processor | str:
        if not path.removeprefix(".").rpartition(".")[0].endswith("face_adapter"):
            return of_wan(path, attn)
        return (
            processor_refusal(attn, own)
            or odd_heads(attn, attn.inner_dim)
            or FaceProcessor(path, attn.processor, setting, "norm and attention to a face", known)
        )

    return replacement


def vace_blocks(transformer: Any, setting: Setting) -> Callable[[str, Any], BlockForward | str | None]:
    """New forwards for both kinds of blocks of a WanVACETransformer3DModel."""
    of_wan = wan_blocks()(transformer, setting)
    of_control = wan_blocks("transformer_wan_vace", "WanVACETransformerBlock", VACEBlock)(transformer, setting)

    def replacement(path: str, block: Any) -> BlockForward | str | None:
        return of_wan(path, block) or of_control(path, block)

    return replacement


_KIN = replace(WAN, timesteps=None, divides="")
VACE = replace(
    _KIN, model="diffusers.WanVACETransformer3DModel", blocks=vace_blocks,
    examples={"wan-vace": partial(build, "wan-vace")},
)  # fmt: skip
ANIMATE = replace(
    _KIN, model="diffusers.WanAnimateTransformer3DModel", attention=animate,
    blocks=wan_blocks("transformer_wan_animate"), examples={"wan-animate": partial(build, "wan-animate")},
)  # fmt: skip
SKYREELS = replace(
    _KIN, model="diffusers.SkyReelsV2Transformer3DModel",
    attention=wan_attention("transformer_skyreels_v2", "SkyReelsV2AttnProcessor"),
    blocks=wan_blocks("transformer_skyreels_v2", "SkyReelsV2TransformerBlock", SkyReelsBlock),
    examples={name: partial(build, name) for name in ("skyreels-v2", "skyreels-v2-forcing")},
)  # fmt: skip
CHRONOEDIT = replace(
    _KIN, model="diffusers.ChronoEditTransformer3DModel", attention=wan_attention("transformer_chronoedit"),
    blocks=wan_blocks("transformer_chronoedit"), examples={"chronoedit": partial(build, "chronoedit")},
)  # fmt: skip
