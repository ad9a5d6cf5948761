# Over 300 lines: one table of models.
"""Tiny random transformers of diffusers, each with the arguments of one call: two layers, a few tokens.

`MODELS` is the table: name -> class, constructor's arguments, call's arguments. `build(name)` makes both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.integrate.diffusers.tiny_calls import (
    HEADS,
    HUNYUAN,
    IMAGE,
    WAN,
    WAN_IMAGE,
    allegro_call,
    consisid_call,
    framepack_call,
    helios_call,
    hunyuan15_call,
    hunyuan_call,
    image_call,
    kandinsky_call,
    ltx2_call,
    normal,
    padded,
    text,
    times,
    video,
    wan_animate_call,
    wan_call,
    wan_image_call,
)

Inputs = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Tiny:
    """A class of diffusers by name, the arguments of its constructor and those of one call."""

    kind: str
    config: dict[str, Any]
    inputs: Inputs


CONSISID = HEADS | {
    "in_channels": 4, "out_channels": 4, "time_embed_dim": 4, "text_embed_dim": 10, "num_layers": 1, "sample_width": 8,
    "sample_height": 8, "sample_frames": 5, "patch_size": 2, "max_text_seq_length": 5, "cross_attn_interval": 1,
    "is_train_face": True, "cross_attn_dim_head": 4, "cross_attn_num_heads": 2, "LFE_id_dim": 4, "LFE_vit_dim": 4,
    "LFE_depth": 5, "LFE_dim_head": 8, "LFE_num_heads": 2, "LFE_num_id_token": 1, "LFE_num_querie": 2,
    "LFE_output_dim": 21, "LFE_ff_mult": 1, "LFE_num_scale": 1,
}  # fmt: skip
WAN_ANIMATE = WAN | {
    "in_channels": 12, "latent_channels": 4, "image_dim": 12, "added_kv_proj_dim": 32,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8}, "motion_encoder_size": 16, "motion_style_dim": 8,
    "motion_dim": 4, "motion_encoder_dim": 8, "face_encoder_hidden_dim": 8, "face_encoder_num_heads": 2,
    "inject_face_latents_blocks": 2,
}  # fmt: skip
LTX2 = HEADS | {
    "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32, "audio_in_channels": 4, "audio_out_channels": 4,
    "audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16, "num_layers": 2,
    "caption_channels": 10, "rope_double_precision": False,
}  # fmt: skip
SANA = HEADS | {
    "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 10, "sample_size": 4,
    "patch_size": (1, 2, 2), "rope_max_seq_len": 16,
}  # fmt: skip
COSMOS = HEADS | {
    "in_channels": 4, "out_channels": 4, "num_layers": 2, "mlp_ratio": 2, "text_embed_dim": 10, "adaln_lora_dim": 4,
    "max_size": (4, 16, 16), "concat_padding_mask": False,
}  # fmt: skip
KANDINSKY = {
    "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 10, "in_text_dim2": 6, "time_dim": 8, "model_dim": 32,
    "ff_dim": 24, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
}  # fmt: skip

MODELS = {
    "wan": Tiny("WanTransformer3DModel", WAN, wan_call),
    "wan-image": Tiny("WanTransformer3DModel", WAN | WAN_IMAGE, wan_image_call),
    "wan-vace": Tiny(
        "WanVACETransformer3DModel", WAN | {"vace_layers": [0], "vace_in_channels": 6},
        lambda: wan_call() | {"control_hidden_states": normal(2, 6, 3, 4, 6, seed=4)},
    ),
    "wan-animate": Tiny("WanAnimateTransformer3DModel", WAN_ANIMATE, wan_animate_call),
    "skyreels-v2": Tiny("SkyReelsV2Transformer3DModel", WAN, wan_call),
    "skyreels-v2-forcing": Tiny(
        "SkyReelsV2Transformer3DModel", WAN | {"num_frame_per_block": 2},
        lambda: wan_call() | {"hidden_states": video(4, 4, 4, 6), "enable_diffusion_forcing": True,
                              "timestep": torch.tensor([[3, 3, 700, 700], [5, 6, 7, 800]])},
    ),
    "chronoedit": Tiny(
        "ChronoEditTransformer3DModel", WAN | WAN_IMAGE | {"rope_temporal_skip_len": 8}, wan_image_call
    ),
    "helios": Tiny(
        "HeliosTransformer3DModel",
        {key: value for key, value in WAN.items() if key != "rope_max_seq_len"} | {"rope_dim": (4, 6, 6)}, helios_call,
    ),
    "anyflow": Tiny(
        "AnyFlowTransformer3DModel", WAN,
        lambda: wan_call() | {"hidden_states": video(3, 4, 4, 6), "timestep": times()[:, None].expand(-1, 3),
                              "r_timestep": times()[:, None].expand(-1, 3) - 2},
    ),
    "hunyuan": Tiny(
        "HunyuanVideoTransformer3DModel", HUNYUAN | {"num_single_layers": 2, "pooled_projection_dim": 6}, hunyuan_call
    ),
    "hunyuan-1.5": Tiny(
        "HunyuanVideo15Transformer3DModel",
        HUNYUAN | {"num_layers": 2, "patch_size": 1, "text_embed_2_dim": 8, "image_embed_dim": 12, "target_size": 16,
                   "task_type": "t2v"}, hunyuan15_call,
    ),
    "hunyuan-framepack": Tiny(
        "HunyuanVideoFramepackTransformer3DModel",
        HUNYUAN | {"num_single_layers": 1, "pooled_projection_dim": 6, "has_image_proj": True, "image_proj_dim": 12,
                   "has_clean_x_embedder": True}, framepack_call,
    ),
    "hunyuan-image": Tiny(
        "HunyuanImageTransformer2DModel",
        HUNYUAN | {"num_single_layers": 1, "rope_axes_dim": (8, 8)},
        lambda: {"hidden_states": video(4, 4, 6), "timestep": times().float(), "encoder_hidden_states": text(6, 10),
                 "encoder_attention_mask": padded(6)},
    ),
    "ltx": Tiny(
        "LTXVideoTransformer3DModel",
        HEADS | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 32, "num_layers": 2,
                 "caption_channels": 10},
        lambda: {"hidden_states": video(18, 4), "encoder_hidden_states": text(6, 10), "timestep": times(),
                 "encoder_attention_mask": padded(6), "num_frames": 3, "height": 2, "width": 3},
    ),
    "ltx-2": Tiny("LTX2VideoTransformer3DModel", LTX2, ltx2_call),
    "sana-video": Tiny(
        "SanaVideoTransformer3DModel", SANA,
        lambda: {"hidden_states": video(4, 2, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times()},
    ),
    "cosmos": Tiny(
        "CosmosTransformer3DModel", COSMOS,
        lambda: {"hidden_states": video(4, 2, 4, 6), "timestep": times().float(), "encoder_hidden_states": text(6, 10),
                 "fps": 24},
    ),
    "kandinsky-5": Tiny("Kandinsky5Transformer3DModel", KANDINSKY, kandinsky_call),
    "motif-video": Tiny(
        "MotifVideoTransformer3DModel",
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1, "num_decoder_layers": 0,
                 "patch_size": 1, "text_embed_dim": 10, "image_embed_dim": 4, "rope_axes_dim": (4, 6, 6)},
        lambda: {"hidden_states": video(4, 2, 4, 4), "timestep": times(), "encoder_hidden_states": text(6, 10)},
    ),
    "joyimage": Tiny(
        "JoyImageEditTransformer3DModel",
        {"patch_size": [1, 2, 2], "in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 10,
         "num_layers": 2, "rope_dim_list": [4, 6, 6], "theta": 256},
        lambda: {"hidden_states": video(2, 4, 1, 4, 4), "encoder_hidden_states": text(6, 10),
                 "timestep": torch.tensor([1.0, 7.0])},
    ),
    "flux": Tiny(
        "FluxTransformer2DModel", IMAGE | {"pooled_projection_dim": 6, "axes_dims_rope": [4, 6, 6]},
        lambda: image_call(pooled=6),
    ),
    "flux-2": Tiny(
        "Flux2Transformer2DModel", IMAGE | {"axes_dims_rope": [4, 4, 4, 4], "timestep_guidance_channels": 8},
        lambda: image_call(ids=4, seconds=3.5),
    ),
    "bria": Tiny(
        "BriaTransformer2DModel", IMAGE | {"pooled_projection_dim": None, "axes_dims_rope": [4, 6, 6]}, image_call
    ),
    "ovis-image": Tiny(
        "OvisImageTransformer2DModel", IMAGE | {"out_channels": 4, "axes_dims_rope": (4, 6, 6)}, image_call
    ),
    "longcat-image": Tiny(
        "LongCatImageTransformer2DModel", IMAGE | {"pooled_projection_dim": 6, "axes_dims_rope": [4, 6, 6]},
        lambda: image_call(seconds=3.5),
    ),
    "qwen-image": Tiny(
        "QwenImageTransformer2DModel",
        HEADS | {"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "joint_attention_dim": 10,
                 "axes_dims_rope": (4, 6, 6)},
        lambda: {"hidden_states": video(16, 16), "encoder_hidden_states": text(6, 10),
                 "encoder_hidden_states_mask": padded(6), "timestep": torch.tensor([0.3, 0.7]),
                 "img_shapes": [(1, 4, 4)] * 2},
    ),
    "z-image": Tiny(
        "ZImageTransformer2DModel",
        {"all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": 32, "n_layers": 1,
         "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "qk_norm": True, "cap_feat_dim": 10,
         "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [4, 6, 6], "axes_lens": [256, 32, 32]},
        lambda: {"x": [normal(4, 1, 8, 8, seed=1)], "cap_feats": [normal(6, 10, seed=2)], "t": torch.tensor([0.3])},
    ),
    "glm-image": Tiny(
        "GlmImageTransformer2DModel",
        HEADS | {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "text_embed_dim": 10,
                 "time_embed_dim": 8, "condition_dim": 8, "prior_vq_quantizer_codebook_size": 16},
        lambda: {"hidden_states": video(4, 8, 8), "encoder_hidden_states": text(6, 10), "timestep": times(),
                 "prior_token_id": torch.arange(32).reshape(2, 16) % 16, "prior_token_drop": torch.zeros(2, 16).bool(),
                 "target_size": torch.full((2, 2), 8.0), "crop_coords": torch.zeros(2, 2)},
    ),
    "krea-2": Tiny(
        "Krea2Transformer2DModel",
        HEADS | {"num_attention_heads": 4, "attention_head_dim": 8, "num_key_value_heads": 2, "in_channels": 8,
                 "num_layers": 2, "intermediate_size": 24, "timestep_embed_dim": 8, "text_hidden_dim": 16,
                 "num_text_layers": 3, "text_num_attention_heads": 2, "text_num_key_value_heads": 1,
                 "text_intermediate_size": 12, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
                 "axes_dims_rope": (4, 2, 2)},
        lambda: {"hidden_states": video(4, 8), "encoder_hidden_states": normal(2, 5, 3, 16, seed=2),
                 "timestep": torch.tensor([0.3, 0.7]), "position_ids": torch.arange(9)[:, None].expand(-1, 3)},
    ),
    "chroma": Tiny(
        "ChromaTransformer2DModel",
        IMAGE | {"axes_dims_rope": [4, 6, 6], "approximator_num_channels": 8, "approximator_hidden_dim": 16,
                 "approximator_layers": 1}, image_call,
    ),
    "stable-diffusion-3": Tiny(
        "SD3Transformer2DModel",
        HEADS | {"sample_size": 4, "patch_size": 1, "in_channels": 4, "num_layers": 2, "caption_projection_dim": 32,
                 "joint_attention_dim": 10, "pooled_projection_dim": 6, "out_channels": 4, "pos_embed_max_size": 8},
        lambda: {"hidden_states": video(4, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times(),
                 "pooled_projections": normal(2, 6, seed=3)},
    ),
    "aura-flow": Tiny(
        "AuraFlowTransformer2DModel",
        HEADS | {"sample_size": 4, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
                 "caption_projection_dim": 32, "joint_attention_dim": 10, "out_channels": 4, "pos_embed_max_size": 16},
        lambda: {"hidden_states": video(4, 4, 4), "encoder_hidden_states": text(6, 10),
                 "timestep": torch.tensor([0.3, 0.7])},
    ),
    "cogview-4": Tiny(
        "CogView4Transformer2DModel",
        HEADS | {"patch_size": 2, "in_channels": 4, "num_layers": 2, "out_channels": 4, "text_embed_dim": 10,
                 "time_embed_dim": 8, "condition_dim": 4},
        lambda: {"hidden_states": video(4, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times(),
                 "original_size": torch.full((2, 2), 32), "target_size": torch.full((2, 2), 32),
                 "crop_coords": torch.zeros(2, 2)},
    ),
    "lumina-2": Tiny(
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "num_layers": 2,
         "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 2,
         "axes_dim_rope": (4, 2, 2), "axes_lens": (64, 64, 64), "cap_feat_dim": 10},
        lambda: {"hidden_states": video(4, 8, 8), "timestep": torch.tensor([0.3, 0.7]),
                 "encoder_hidden_states": text(6, 10), "encoder_attention_mask": padded(6, torch.bool)},
    ),
    "sana": Tiny(
        "SanaTransformer2DModel",
        HEADS | {"patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_cross_attention_heads": 2,
                 "cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 10, "sample_size": 4},
        lambda: {"hidden_states": video(4, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times()},
    ),
    "pixart": Tiny(
        "PixArtTransformer2DModel",
        HEADS | {"sample_size": 4, "num_layers": 2, "patch_size": 2, "in_channels": 4, "out_channels": 8,
                 "cross_attention_dim": 32, "caption_channels": 10, "use_additional_conditions": False},
        lambda: {"hidden_states": video(4, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times()},
    ),
    "mochi": Tiny(
        "MochiTransformer3DModel",
        HEADS | {"patch_size": 2, "num_layers": 2, "pooled_projection_dim": 6, "in_channels": 4, "text_embed_dim": 16,
                 "time_embed_dim": 4, "max_sequence_length": 6},
        lambda: {"hidden_states": video(4, 2, 4, 4), "encoder_hidden_states": text(6, 16), "timestep": times(),
                 "encoder_attention_mask": torch.tensor([[0, 1, 1, 0, 1, 1], [1] * 6]).bool()},
    ),
    "allegro": Tiny(
        "AllegroTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 2,
         "cross_attention_dim": 24, "sample_width": 4, "sample_height": 4, "sample_frames": 2, "caption_channels": 10},
        allegro_call,
    ),
    "easyanimate": Tiny(
        "EasyAnimateTransformer3DModel",
        HEADS | {"in_channels": 4, "out_channels": 4, "mmdit_layers": 1, "num_layers": 2, "patch_size": 2,
                 "text_embed_dim": 10, "time_embed_dim": 8, "time_position_encoding_type": "3d_rope"},
        lambda: {"hidden_states": video(4, 2, 4, 4), "encoder_hidden_states": text(6, 10), "timestep": times()},
    ),
    "consisid": Tiny("ConsisIDTransformer3DModel", CONSISID, consisid_call),
    "cogvideox": Tiny(
        "CogVideoXTransformer3DModel",
        HEADS | {"in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 10, "num_layers": 2,
                 "sample_width": 6, "sample_height": 4, "sample_frames": 9, "max_text_seq_length": 5},
        lambda: {"hidden_states": video(3, 4, 4, 6), "encoder_hidden_states": text(5, 10), "timestep": times()},
    ),
    "latte": Tiny(
        "LatteTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2,
         "cross_attention_dim": 16, "attention_bias": True, "sample_size": 4, "patch_size": 2,
         "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "activation_fn": "gelu-approximate",
         "caption_channels": 10, "video_length": 3},
        lambda: {"hidden_states": video(4, 3, 4, 4), "timestep": times(), "encoder_hidden_states": text(5, 10)},
    ),
}  # fmt: skip


def build(name: str) -> tuple[Any, dict[str, Any]]:
    """(model in evaluation, arguments): weights from a fixed seed, norms and biases other than 1 and 0."""
    import diffusers

    tiny = MODELS[name]
    torch.manual_seed(5)
    model = getattr(diffusers, tiny.kind)(**tiny.config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model, tiny.inputs()


def output(model: Any, call: dict[str, Any]) -> Tensor:
    """What a model returns, as one tensor without gradients."""
    from torch.utils._pytree import tree_leaves

    with torch.no_grad():
        found = model(**call, return_dict=False)
    return torch.cat([leaf.flatten() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)])
