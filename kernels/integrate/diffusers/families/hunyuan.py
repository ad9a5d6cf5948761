"""HunyuanVideo, FramePack and HunyuanVideo 1.5: RMS norm per head, rotation of the video's tokens, text last, padded.

The model itself makes its mask of a number of valid text tokens (HunyuanVideoTransformer3DModel.forward), so that it
is a number of keys again by counting, on the device.

Source of the computation: diffusers, models/transformers/transformer_hunyuan_video.py (HunyuanVideoAttnProcessor2_0),
transformer_hunyuan_video_framepack.py, transformer_hunyuan_video15.py (HunyuanVideo15AttnProcessor2_0).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import Rope, qk_norm_rope
from phys4d.kernels.integrate.diffusers.bypass import known_forwards, unfit
from phys4d.kernels.integrate.diffusers.families.drawn import numbers
from phys4d.kernels.integrate.diffusers.families.hunyuan_block import hunyuan_blocks
from phys4d.kernels.integrate.diffusers.families.named import diffusers_class
from phys4d.kernels.integrate.diffusers.families.plain import plain_processor
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    called,
    heads_of,
    known_qk_norms,
    odd_heads,
    processor_refusal,
)
from phys4d.kernels.integrate.diffusers.register import Family
from phys4d.kernels.integrate.diffusers.rotation import Rotation
from phys4d.kernels.integrate.diffusers.setting import Setting
from phys4d.kernels.integrate.diffusers.tiny_models import build


class HunyuanProcessor(Processor):
    """Joint attention of video and text; two-stream blocks project and norm the text by weights of its own."""

    norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        arguments = (attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        why = unfit(hidden_states, encoder_hidden_states) or self._refusal(
            hidden_states, encoder_hidden_states, attention_mask
        )
        if why or encoder_hidden_states is None:
            return self.pass_on(why or "no text", *arguments)
        rope = self.setting.rotation.table(image_rotary_emb, hidden_states.shape[1], hidden_states.device)
        if isinstance(rope, str):
            return self.pass_on(rope, *arguments)
        lengths, padded = self._lengths(attention_mask, hidden_states.shape[1])
        q, k, v = self._queries_keys_values(attn, hidden_states, encoder_hidden_states, rope)
        out = attention(q, k, v, key_lengths=lengths, backend=self.setting.backend).flatten(2, 3).to(q.dtype)
        video, text = out.tensor_split((hidden_states.shape[1],), dim=1)
        if padded is not None:
            text = text.masked_fill(padded, 0.0)
        if attn.to_out is not None:  # one-stream blocks project later, with the MLP
            video = attn.to_out[1](attn.to_out[0](video))
        if attn.to_add_out is not None:
            text = attn.to_add_out(text)
        return video, text

    def _refusal(self, video: Tensor, text: Tensor | None, mask: Tensor | None) -> str | None:
        if text is None:
            return "no text"
        total = video.shape[1] + text.shape[1]
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (video.shape[0], 1, 1, total)):
            return "a mask of pairs, not of keys"
        return None

    def _lengths(self, mask: Tensor | None, video: int) -> tuple[Tensor | None, Tensor | None]:
        """Numbers of keys [B], and which tokens [B, S, 1] of the text give 0."""
        return None if mask is None else mask[:, 0, 0].sum(dim=-1), None

    def _queries_keys_values(self, attn: Any, video: Tensor, text: Tensor, rope: Rope) -> tuple[Tensor, ...]:
        """Normed and rotated queries and keys, and values, of video and text: three [B, S, heads, D]."""
        one_stream = attn.add_q_proj is None
        tokens = torch.cat((video, text), dim=1) if one_stream else video
        q, k, v = (project(tokens) for project in (attn.to_q, attn.to_k, attn.to_v))
        behind = (text.shape[1], "last") if one_stream else None
        q, k = self._normed(attn, "norm_q", "norm_k", q, k, rope, video.shape[1], behind)
        if one_stream:
            return q, k, heads_of(v, attn)
        v, text_v = heads_of(v, attn), heads_of(attn.add_v_proj(text), attn)
        text_q, text_k = attn.add_q_proj(text), attn.add_k_proj(text)
        text_q, text_k = self._normed(attn, "norm_added_q", "norm_added_k", text_q, text_k, None)
        return torch.cat((q, text_q), dim=1), torch.cat((k, text_k), dim=1), torch.cat((v, text_v), dim=1)

    def _normed(
        self, attn: Any, q_name: str, k_name: str, q: Tensor, k: Tensor, rope: Rope | None, count: int = 1,
        text: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        norm = self.qk_norm("rms", attn, q, q_name, k_name)
        q, k = heads_of(q, attn), heads_of(k, attn)
        if norm is None:
            q, k = called(getattr(attn, q_name), q), called(getattr(attn, k_name), k)
        if norm is None and rope is None:
            return q, k
        return qk_norm_rope(q, k, norm, rope, grid=(count, 1, 1), text=text)


class Hunyuan15Processor(HunyuanProcessor):
    """The same of two streams with a mask of the text, [B, S], by which padded tokens give 0."""

    def _refusal(self, video: Tensor, text: Tensor | None, mask: Tensor | None) -> str | None:
        if text is None or mask is None:
            return "no text"
        return "a mask of other text" if mask.shape != text.shape[:2] else None

    def _lengths(self, mask: Tensor | None, video: int) -> tuple[Tensor | None, Tensor | None]:
        assert mask is not None
        valid = mask.bool()
        return valid.sum(dim=-1) + video, ~valid[..., None]


def hunyuan_attention(
    module: str, maker: str, processor: str = "HunyuanVideoAttnProcessor2_0",
    new: type[HunyuanProcessor] = HunyuanProcessor, own: str = "transformer_hunyuan_video",
) -> Callable[[Any, Setting], Callable[[str, Any], Processor | str]]:  # fmt: skip
    """New processors in place of this class of the module `own`, with angles of the class `maker` of `module`, both in
    diffusers.models.transformers."""

    def attention_of(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
        of_angles = known_forwards(diffusers_class(module, maker))
        setting.rotation = Rotation(transformer=transformer, maker=of_angles)
        replaced, known = diffusers_class(own, processor), known_qk_norms("rms")

        def replacement(path: str, attn: Any) -> Processor | str:
            if ".token_refiner." in f".{path}":
                return plain_processor(path, attn, setting, "attention of the text")
            swaps = "norm, rotation and attention with its text mask"
            return (
                processor_refusal(attn, replaced)
                or odd_heads(attn, attn.inner_dim)
                or new(path, attn.processor, setting, swaps, known)
            )

        return replacement

    return attention_of


def example() -> tuple[Any, dict[str, Any]]:
    """A tiny random model and the arguments of one call."""
    from diffusers import HunyuanVideoTransformer3DModel

    model = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=10, pooled_projection_dim=6, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    call = {
        "hidden_states": numbers(2, 4, 3, 4, 6, seed=1),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": numbers(2, 6, 10, seed=2),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]),
        "pooled_projections": numbers(2, 6, seed=3),
        "guidance": torch.tensor([6.0, 1.0]),
    }
    return model, call


HUNYUAN = Family(
    "diffusers.HunyuanVideoTransformer3DModel",
    hunyuan_attention("transformer_hunyuan_video", "HunyuanVideoRotaryPosEmbed"),
    hunyuan_blocks(),
    parts={
        "attention": "norm per head of queries and keys, rotation of the video, joint attention with a text mask; "
        "attention of the text",
        "norm": "gate, residual, norm and modulation of the blocks",
    },
    examples={"hunyuan": example},
)
FRAMEPACK = replace(
    HUNYUAN,
    model="diffusers.HunyuanVideoFramepackTransformer3DModel",
    attention=hunyuan_attention("transformer_hunyuan_video_framepack", "HunyuanVideoFramepackRotaryPosEmbed"),
    examples={"hunyuan-framepack": partial(build, "hunyuan-framepack")},
)
HUNYUAN15 = replace(
    HUNYUAN,
    model="diffusers.HunyuanVideo15Transformer3DModel",
    attention=hunyuan_attention(
        "transformer_hunyuan_video15", "HunyuanVideo15RotaryPosEmbed", "HunyuanVideo15AttnProcessor2_0",
        Hunyuan15Processor, "transformer_hunyuan_video15",
    ),
    blocks=hunyuan_blocks("transformer_hunyuan_video15", "HunyuanVideo15TransformerBlock"),
    examples={"hunyuan-1.5": partial(build, "hunyuan-1.5")},
)  # fmt: skip
