"""CogVideoX-5B and -I2V, and folders of their kind, from their configurations alone: modules without values."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from phys4d.models.base_weights import without_weights
from phys4d.models.cogvideox.backbone import CogVideoXBackbone
from phys4d.models.cogvideox.codec import CogVideoXCodec
from phys4d.models.cogvideox.layers import in_less_memory
from phys4d.models.cogvideox.process import BETAS, SNR_SHIFT, Process
from phys4d.models.cogvideox.published import STEPS, TAKEN, published_noise, size_check, token_stride
from phys4d.models.diffusers_folder import read_config
from phys4d.models.headers import read_json
from phys4d.models.spec import Bare, Parts, Published, Settings
from phys4d.models.t5 import TEXT_XXL, TextWithoutValues

PUBLISHED = (TEXT_TO_VIDEO, IMAGE) = ("cogvideox-5b", "cogvideox-5b-i2v")
"""The names of the released models, whose configurations are written here (huggingface.co/THUDM/CogVideoX-5b and
CogVideoX-5b-I2V: transformer/, vae/ and text_encoder/config.json)."""
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 16, "out_channels": 16, "num_layers": 42,
    "time_embed_dim": 512, "text_embed_dim": 4096, "max_text_seq_length": 226, "patch_size": 2, "sample_width": 90,
    "sample_height": 60, "sample_frames": 49, "use_rotary_positional_embeddings": True,
}  # fmt: skip
IMAGE_TO_VIDEO: dict[str, Any] = {"in_channels": 32, "use_learned_positional_embeddings": True}
"""What differs in CogVideoX-5B-I2V."""
VAE: dict[str, Any] = {"latent_channels": 16, "scaling_factor": 0.7, "invert_scale_latents": False}
TEXT = TEXT_XXL | {"vocab_size": 32128}


def bare(settings: Settings, source: Published) -> Bare:
    """Of a folder that holds config.json of transformer/, vae/ and text_encoder/, or else of a released model."""
    transformer, vae, text, noise = TRANSFORMER, VAE, TEXT, (SNR_SHIFT, BETAS)
    if source == IMAGE:
        transformer = TRANSFORMER | IMAGE_TO_VIDEO
    elif isinstance(source, Path):
        transformer = read_config(source / "transformer" / "config.json", "CogVideoXTransformer3DModel", TAKEN)
        vae = read_config(source / "vae" / "config.json", "AutoencoderKLCogVideoX", TAKEN)
        text = read_json(source / "text_encoder" / "config.json")
        noise = published_noise(source)
    with torch.device("meta"):  # for the defaults of what the configurations leave out
        whole = dict(CogVideoXTransformer3DModel.from_config(transformer | {"num_layers": 1}).config)
        whole_vae = dict(AutoencoderKLCogVideoX.from_config(vae).config)
    encoder = cache(lambda: TextWithoutValues("T5", text, whole["max_text_seq_length"]))

    def build(layers: int, taps: tuple[int, ...], seed: int) -> Parts:
        with without_weights():
            network = CogVideoXTransformer3DModel.from_config(transformer | {"num_layers": layers}).float()
            codec = CogVideoXCodec(vae, image_apart=network.config.in_channels > network.config.out_channels)
            autoencoder = AutoencoderKLCogVideoX.from_config(vae).eval().requires_grad_(False)
            codec._modules["vae"] = in_less_memory(autoencoder)
        return Parts(CogVideoXBackbone(network, taps, Process(*noise), codec.image_scale), codec, encoder())

    return Bare(
        layers=transformer["num_layers"],
        token_stride=token_stride(whole, whole_vae),
        steps=STEPS,
        shift=noise[0],
        build=build,
        check_size=size_check(whole, whole_vae),
    )
