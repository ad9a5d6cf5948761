"""Published models of Wan2.1, and folders of their kind, from their configurations alone: modules without values."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import read_config
from phys4d.models.headers import read_json
from phys4d.models.spec import Bare, Parts, Published, Settings
from phys4d.models.t5 import TextWithoutValues
from phys4d.models.wan.bare import TEXT
from phys4d.models.wan.schedule import STEPS
from phys4d.models.wan.text import TOKENS
from phys4d.models.wan21.backbone import Wan21Backbone
from phys4d.models.wan21.codec import Wan21Codec
from phys4d.models.wan21.image import ImageEncoder
from phys4d.models.wan21.published import TAKEN, reads_image
from phys4d.models.wan21.schedule import SHIFT, published_scheduler, published_shift, shift_of

_SMALL: dict[str, Any] = {
    "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 4096,
    "freq_dim": 256, "ffn_dim": 8960, "num_layers": 30, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6, "rope_max_seq_len": 1024,
}  # fmt: skip
_LARGE = {**_SMALL, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
_IMAGE = {**_LARGE, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "wan2.1-t2v-1.3b": _SMALL, "wan2.1-t2v-14b": _LARGE, "wan2.1-i2v-14b-480p": _IMAGE, "wan2.1-i2v-14b-720p": _IMAGE,
}  # fmt: skip
"""transformer/config.json of the released models, by their names (huggingface.co/Wan-AI/Wan2.1-T2V-1.3B-Diffusers,
-T2V-14B-Diffusers, -I2V-14B-480P-Diffusers and -I2V-14B-720P-Diffusers). Their autoencoder has the settings that
AutoencoderKLWan has by default; latents' means and deviations are among them."""
CLIP: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu",
}  # fmt: skip
"""image_encoder/config.json of the models of image to video."""


def bare(settings: Settings, source: Published) -> Bare:
    """Of a folder that holds config.json of transformer/, vae/ and text_encoder/, and of image_encoder/ for image to
    video, or of a published model by its name; for None, of the smallest."""
    vae: dict[str, Any] = {}
    text, clip, shift = TEXT, CLIP, SHIFT
    if isinstance(source, Path):
        transformer = read_config(source / "transformer" / "config.json", "WanTransformer3DModel", TAKEN)
        vae = read_config(source / "vae" / "config.json", "AutoencoderKLWan", TAKEN)
        text = read_json(source / "text_encoder" / "config.json")
        shift = published_shift(source)
    else:
        transformer = TRANSFORMERS[source or next(iter(TRANSFORMERS))]
    with torch.device("meta"):  # for the defaults of what the configurations leave out
        whole = WanTransformer3DModel.from_config(transformer | {"num_layers": 1}).config
        whole_vae = AutoencoderKLWan.from_config(vae).config
    image = reads_image(whole)
    if image and isinstance(source, Path):
        clip = read_json(source / "image_encoder" / "config.json")

    encoder = cache(lambda: TextWithoutValues("UMT5", text, TOKENS))

    def build(layers: int, taps: tuple[int, ...], seed: int) -> Parts:
        with without_weights():
            network = WanTransformer3DModel.from_config(transformer | {"num_layers": layers})
            codec = Wan21Codec(vae, ImageEncoder(clip) if image else None)
            codec._modules["vae"] = AutoencoderKLWan.from_config(vae).eval().requires_grad_(False)
            if codec.image is not None:
                codec.image.leave_out_values()
        tokens = 0 if codec.image is None else codec.image.tokens
        return Parts(Wan21Backbone(network, taps, published_scheduler(source), tokens), codec, encoder())

    t, h, w = whole.patch_size
    temporal, spatial = whole_vae.scale_factor_temporal, whole_vae.scale_factor_spatial
    return Bare(
        layers=transformer["num_layers"],
        token_stride=(temporal * t, spatial * h, spatial * w),
        steps=STEPS,
        shift=shift,
        build=build,
        shift_of=partial(shift_of, shift),
    )
