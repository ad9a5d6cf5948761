"""Wan2.2-TI2V-5B, and folders of its kind, from their configurations alone: modules without values."""

from functools import cache
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, WanTransformer3DModel

from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import read_config
from phys4d.models.headers import read_json
from phys4d.models.spec import Bare, Parts, Published, Settings
from phys4d.models.t5 import TEXT_XXL, TextWithoutValues
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan.published import TAKEN
from phys4d.models.wan.schedule import SHIFT, STEPS, published_scheduler, published_shift
from phys4d.models.wan.text import TOKENS

PUBLISHED = "wan2.2-ti2v-5b"
"""The name of the released model, whose configurations are written here (huggingface.co/Wan-AI/
Wan2.2-TI2V-5B-Diffusers: transformer/, vae/ and text_encoder/config.json); latents' means and deviations are left out.
"""
TRANSFORMER: dict[str, Any] = {
    "patch_size": [1, 2, 2], "num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48,
    "out_channels": 48, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 14336, "num_layers": 30, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
}  # fmt: skip
VAE: dict[str, Any] = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "attn_scales": [], "temperal_downsample": [False, True, True], "dropout": 0.0, "is_residual": True,
    "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_temporal": 4, "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
TEXT = TEXT_XXL | {"vocab_size": 256384}


def bare(settings: Settings, source: Published) -> Bare:
    """Of a folder that holds config.json of transformer/, vae/ and text_encoder/, or else of the released model."""
    transformer, vae, text, shift = TRANSFORMER, VAE, TEXT, SHIFT
    if isinstance(source, Path):
        transformer = read_config(source / "transformer" / "config.json", "WanTransformer3DModel", TAKEN)
        vae = read_config(source / "vae" / "config.json", "AutoencoderKLWan", TAKEN)
        text = read_json(source / "text_encoder" / "config.json")
        shift = published_shift(source)

    encoder = cache(lambda: TextWithoutValues("UMT5", text, TOKENS))

    def build(layers: int, taps: tuple[int, ...], seed: int) -> Parts:
        with without_weights():
            network = WanTransformer3DModel.from_config(transformer | {"num_layers": layers})
            codec = WanCodec(vae)
            codec._modules["vae"] = AutoencoderKLWan.from_config(vae).eval().requires_grad_(False)
        return Parts(WanBackbone(network, taps, published_scheduler(source)), codec, encoder())

    patch = transformer.get("patch_size", [1, 2, 2])
    strides = vae.get("scale_factor_temporal", 4), *[vae.get("scale_factor_spatial", 8)] * 2
    return Bare(
        layers=transformer["num_layers"],
        token_stride=(strides[0] * patch[0], strides[1] * patch[1], strides[2] * patch[2]),
        steps=STEPS,
        shift=shift,
        build=build,
    )
