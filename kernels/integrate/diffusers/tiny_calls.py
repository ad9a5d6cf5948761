"""Arguments of one call of each tiny transformer, and the constructor's arguments that several of them share."""

from typing import Any

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Numbers of a normal distribution that depend on nothing but shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def video(*shape: int) -> Tensor:
    """The video of a call, batch 2: [2, *shape]."""
    return normal(2, *shape, seed=1)


def text(words: int, channels: int) -> Tensor:
    """The text of a call: [2, words, channels]."""
    return normal(2, words, channels, seed=2)


def times() -> Tensor:
    """A timestep for each of two clips."""
    return torch.tensor([3, 700])


def padded(words: int, kind: torch.dtype = torch.int64) -> Tensor:
    """A mask of text, [2, words]: the first clip has two words less."""
    mask = torch.ones(2, words, dtype=kind)
    mask[0, words - 2 :] = 0
    return mask


WAN = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "text_dim": 10,
    "freq_dim": 8, "ffn_dim": 24, "num_layers": 2, "cross_attn_norm": True, "rope_max_seq_len": 16,
}  # fmt: skip
WAN_IMAGE = {"image_dim": 12, "added_kv_proj_dim": 32, "pos_embed_seq_len": None}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
HUNYUAN = HEADS | {
    "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_refiner_layers": 1, "mlp_ratio": 2.0,
    "text_embed_dim": 10, "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
IMAGE = HEADS | {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 10}


def wan_call(words: int = 7) -> dict[str, Any]:
    """Arguments of a Wan: 3 x 2 x 3 tokens."""
    return {"hidden_states": video(4, 3, 4, 6), "timestep": times(), "encoder_hidden_states": text(words, 10)}


def wan_image_call() -> dict[str, Any]:
    """The same with an image, whose tokens stand before 512 of text."""
    return wan_call(512) | {"encoder_hidden_states_image": normal(2, 5, 12, seed=3)}


def wan_animate_call() -> dict[str, Any]:
    """A segment of 9 frames: latents of 3 frames and one of the reference."""
    return {
        "hidden_states": video(12, 4, 4, 4), "timestep": times(), "encoder_hidden_states": text(512, 10),
        "encoder_hidden_states_image": normal(2, 5, 12, seed=3), "pose_hidden_states": normal(2, 4, 3, 4, 4, seed=4),
        "face_pixel_values": normal(2, 3, 9, 16, 16, seed=5),
    }  # fmt: skip


def hunyuan_call() -> dict[str, Any]:
    """Arguments of a HunyuanVideo, with padded text."""
    return {
        "hidden_states": video(4, 3, 4, 6), "timestep": times(), "encoder_hidden_states": text(6, 10),
        "encoder_attention_mask": padded(6), "pooled_projections": normal(2, 6, seed=3),
        "guidance": torch.tensor([6.0, 1.0]),
    }  # fmt: skip


def framepack_call() -> dict[str, Any]:
    """The next section of a video, with clean latents and a history of lower rates."""

    def latents(frames: int, seed: int) -> Tensor:
        return normal(2, 4, frames, 4, 4, seed=seed)

    return hunyuan_call() | {
        "hidden_states": latents(3, 1), "image_embeds": normal(2, 4, 12, seed=4), "indices_latents": torch.arange(3),
        "latents_clean": latents(2, 5), "indices_latents_clean": torch.arange(2),
        "latents_history_2x": latents(2, 6), "indices_latents_history_2x": torch.arange(2),
        "latents_history_4x": latents(4, 7), "indices_latents_history_4x": torch.arange(4),
    }  # fmt: skip


def ltx2_call() -> dict[str, Any]:
    """Video of 2 x 2 x 3 tokens with 5 tokens of sound."""
    return {
        "hidden_states": video(12, 4), "audio_hidden_states": normal(2, 5, 4, seed=3),
        "encoder_hidden_states": text(6, 10), "audio_encoder_hidden_states": normal(2, 6, 10, seed=4),
        "timestep": torch.tensor([3.0, 700.0]), "encoder_attention_mask": padded(6), "num_frames": 2, "height": 2,
        "width": 3, "audio_num_frames": 5, "fps": 25.0,
    }  # fmt: skip


def helios_call() -> dict[str, Any]:
    """Frames with a history of three rates."""

    def latents(frames: int, seed: int) -> Tensor:
        return normal(2, 4, frames, 8, 8, seed=seed)

    def index(frames: int) -> Tensor:
        return torch.arange(frames).expand(2, -1).float()

    return {
        "hidden_states": latents(2, 1), "timestep": times(), "encoder_hidden_states": text(7, 10),
        "indices_hidden_states": index(2), "indices_latents_history_short": index(1),
        "indices_latents_history_mid": index(2), "indices_latents_history_long": index(4),
        "latents_history_short": latents(1, 3), "latents_history_mid": latents(2, 4),
        "latents_history_long": latents(4, 5),
    }  # fmt: skip


def kandinsky_call() -> dict[str, Any]:
    """Channels last: [B, T, H, W, C]."""
    return {
        "hidden_states": video(3, 4, 6, 4), "encoder_hidden_states": text(6, 10), "timestep": times().float(),
        "pooled_projections": normal(2, 6, seed=3), "text_rope_pos": torch.arange(6),
        "visual_rope_pos": [torch.arange(n) for n in (3, 2, 3)],
    }  # fmt: skip


def hunyuan15_call() -> dict[str, Any]:
    """Text of two encoders, both padded, and no image."""
    return {
        "hidden_states": video(4, 2, 4, 4), "timestep": times().float(), "encoder_hidden_states": text(6, 10),
        "encoder_attention_mask": padded(6), "encoder_hidden_states_2": normal(2, 4, 8, seed=3),
        "encoder_attention_mask_2": padded(4), "image_embeds": torch.zeros(2, 3, 12),
    }  # fmt: skip


def image_call(ids: int = 3, seconds: float | None = None, pooled: int | None = None) -> dict[str, Any]:
    """Packed latents of 4 x 4 pixels and 5 words, with their positions [tokens, ids]."""
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()
    found: dict[str, Any] = {
        "hidden_states": video(16, 4), "encoder_hidden_states": text(5, 10), "timestep": torch.tensor([0.3, 0.7]),
        "img_ids": torch.cat([torch.zeros(16, ids - 2), grid], 1), "txt_ids": torch.zeros(5, ids),
    }  # fmt: skip
    if pooled is not None:
        found["pooled_projections"] = normal(2, pooled, seed=3)
    if seconds is not None:
        found["guidance"] = torch.full((2,), seconds)
    return found


def consisid_call() -> dict[str, Any]:
    """A face in two features of one scale."""
    return {
        "hidden_states": video(2, 4, 8, 8), "encoder_hidden_states": text(5, 10), "timestep": times(),
        "id_vit_hidden": [normal(2, 3, 4, seed=3)], "id_cond": normal(2, 4, seed=4),
    }  # fmt: skip


def allegro_call() -> dict[str, Any]:
    """A video of 2 x 2 x 2 tokens with its angles, a table [positions, 4] for each axis, and padded text."""

    def angles(seed: int) -> tuple[Tensor, Tensor]:
        angle = normal(2, 2, seed=seed).repeat(1, 2)
        return angle.cos(), angle.sin()

    places = torch.cartesian_prod(*3 * (torch.arange(2),)).T[:, None]
    return {
        "hidden_states": video(4, 2, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times(),
        "encoder_attention_mask": padded(6), "image_rotary_emb": ([angles(k) for k in range(3)], places.unbind()),
    }  # fmt: skip
