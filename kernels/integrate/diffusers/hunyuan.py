"""HunyuanVideo: RMS norm per head, interleaved rotation of the video's tokens, text last and padded.

The model itself makes its mask of a number of valid text tokens (HunyuanVideoTransformer3DModel.forward), so that it
is a number of keys again by counting, on the device.

Source of the computation: diffusers, models/transformers/transformer_hunyuan_video.py (HunyuanVideoAttnProcessor2_0).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import attention
from phys4d.kernels.elementwise import qk_norm_rope
from phys4d.kernels.integrate.diffusers.processor import (
    Processor,
    Setting,
    heads_of,
    norm_of,
    norm_refusal,
    odd_heads,
    processor_refusal,
)


class HunyuanProcessor(Processor):
    """Joint attention of video and text; two-stream blocks project and norm the text by weights of its own."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        why = self._refusal(hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        if why or encoder_hidden_states is None:
            arguments = (attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
            return self.pass_on(why or "no text", *arguments)
        lengths = None if attention_mask is None else attention_mask[:, 0, 0].sum(dim=-1)
        q, k, v = self._queries_keys_values(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        out = attention(q, k, v, key_lengths=lengths, backend=self.setting.backend).flatten(2, 3).to(q.dtype)
        video, text = out.tensor_split((hidden_states.shape[1],), dim=1)
        if attn.to_out is not None:  # one-stream blocks project later, with the MLP
            video = attn.to_out[1](attn.to_out[0](video))
        if attn.to_add_out is not None:
            text = attn.to_add_out(text)
        return video, text

    def _refusal(self, video: Tensor, text: Tensor | None, mask: Tensor | None, rotation: Any) -> str | None:
        if text is None or rotation is None:
            return "no text or no rotation"
        total = video.shape[1] + text.shape[1]
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (video.shape[0], 1, 1, total)):
            return "a mask of pairs, not of keys"
        return self.setting.rotation.refusal(rotation, video.shape[1])

    def _queries_keys_values(self, attn: Any, video: Tensor, text: Tensor, rotation: Any) -> tuple[Tensor, ...]:
        """Normed and rotated queries and keys, and values, of video and text: three [B, S, heads, D]."""
        rope, grid = self.setting.rotation.rope(rotation, video.device)
        norm = norm_of(attn.norm_q, attn.norm_k, "rms")
        one_stream = attn.add_q_proj is None
        tokens = torch.cat((video, text), dim=1) if one_stream else video
        q, k, v = (heads_of(project(tokens), attn) for project in (attn.to_q, attn.to_k, attn.to_v))
        q, k = qk_norm_rope(q, k, norm, rope, grid=grid, text=(text.shape[1] if one_stream else 0, "last"))
        if one_stream:
            return q, k, v
        projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text_q, text_k, text_v = (heads_of(project(text), attn) for project in projections)
        text_norm = norm_of(attn.norm_added_q, attn.norm_added_k, "rms")
        text_q, text_k = qk_norm_rope(text_q, text_k, text_norm, None, grid=(1, 1, 1))
        return torch.cat((q, text_q), dim=1), torch.cat((k, text_k), dim=1), torch.cat((v, text_v), dim=1)


def hunyuan(transformer: Any, setting: Setting) -> Callable[[str, Any], Processor | str]:
    """New processors for a HunyuanVideoTransformer3DModel: see `swap.Family`."""
    from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0

    def replacement(path: str, attn: Any) -> Processor | str:
        if ".token_refiner." in path:
            return "the text refiner masks pairs of tokens, not keys"
        dim = attn.inner_dim // attn.heads
        why = (
            processor_refusal(attn, HunyuanVideoAttnProcessor2_0)
            or odd_heads(attn, attn.inner_dim)
            or norm_refusal(attn.norm_q, attn.norm_k, "rms", dim)
        )
        if not why and attn.add_q_proj is not None:
            why = norm_refusal(attn.norm_added_q, attn.norm_added_k, "rms", dim)
        return why or HunyuanProcessor(path, attn.processor, setting, "norm, rotation and attention with its text mask")

    return replacement
