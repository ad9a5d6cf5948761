"""Single blocks of diffusers' Wan and CogVideoX with random weights, and the arguments that their model passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.benchmarks.cases import BlockCase


@dataclass(frozen=True)
class Alone:
    """A transformer of one layer, and the arguments of its block.

    Attributes:
        model: the transformer; `block` is its only block.
        inputs: arguments of the block's forward that require gradients, by name.
        rest: its other arguments, by name.
    """

    model: nn.Module
    block: nn.Module
    inputs: dict[str, Tensor]
    rest: dict[str, Any]


def drawn(device: torch.device, dtype: torch.dtype, **shapes: Sequence[int]) -> dict[str, Tensor]:
    """Standard normal tensors of these shapes, by name."""
    generator = torch.Generator(device=device).manual_seed(1)
    return {
        name: torch.empty(*shape, dtype=dtype, device=device).normal_(generator=generator)
        for name, shape in shapes.items()
    }


def weighted(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the parameters to `dtype`, except those that diffusers keeps in float32."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or []
    for name, parameter in model.named_parameters():
        exact = any(part in name.split(".") for part in kept)
        parameter.data = parameter.data.to(torch.float32 if exact else dtype)
    return model


def wan(case: BlockCase, device: torch.device, dtype: torch.dtype) -> Alone:
    """A block of Wan2.2-TI2V-5B with one row of modulation per token, as the model makes from one timestep a token."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    with device:
        model = WanTransformer3DModel(
            num_attention_heads=case.heads, attention_head_dim=case.dim, in_channels=4, out_channels=4, text_dim=8,
            freq_dim=8, ffn_dim=case.hidden, num_layers=1, rope_max_seq_len=64,
        )  # fmt: skip
        time, height, width = case.grid
        rotary = model.rope(torch.empty(1, 4, time, 2 * height, 2 * width))
    inputs = drawn(
        device, dtype, hidden_states=(1, case.tokens, case.width), encoder_hidden_states=(1, case.words, case.width),
        temb=(1, time, 6, case.width),
    )  # fmt: skip
    inputs["temb"] = inputs["temb"].repeat_interleave(height * width, dim=1)
    return Alone(weighted(model, dtype), model.blocks[0], inputs, {"rotary_emb": rotary})


def cogvideox(case: BlockCase, device: torch.device, dtype: torch.dtype) -> Alone:
    """A block of CogVideoX-5B: text and video are two streams, with modulation by linear layers inside the block."""
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    torch.manual_seed(0)
    time, height, width = case.grid
    with device:
        model = CogVideoXTransformer3DModel(
            num_attention_heads=case.heads, attention_head_dim=case.dim, in_channels=4, out_channels=4,
            time_embed_dim=512, text_embed_dim=8, num_layers=1, sample_width=2 * width, sample_height=2 * height,
            sample_frames=4 * time - 3, max_text_seq_length=case.words, use_rotary_positional_embeddings=True,
        )  # fmt: skip
    rotary = get_3d_rotary_pos_embed(case.dim, ((0, 0), (height, width)), (height, width), time, device=device)
    inputs = drawn(
        device, dtype, hidden_states=(1, case.tokens, case.width), encoder_hidden_states=(1, case.words, case.width),
        temb=(1, 512),
    )  # fmt: skip
    rest = {"image_rotary_emb": rotary}
    return Alone(weighted(model, dtype), model.transformer_blocks[0], inputs, rest)
