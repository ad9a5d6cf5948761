"""CogVideoX-5B and CogVideoX-5B-I2V as a kind of model."""

from pathlib import Path

from diffusers import CogVideoXTransformer3DModel

from phys4d.models.base_weights import without_weights
from phys4d.models.cogvideox.backbone import CogVideoXBackbone
from phys4d.models.cogvideox.bare import PUBLISHED, bare
from phys4d.models.cogvideox.codec import CogVideoXCodec
from phys4d.models.cogvideox.process import Process
from phys4d.models.cogvideox.published import (
    GUIDANCE,
    LAYOUT,
    SIZE,
    STEPS,
    check_released,
    published_noise,
    size_check,
    token_stride,
)
from phys4d.models.cogvideox.text import T5Encoder
from phys4d.models.diffusers_folder import class_name, given
from phys4d.models.headers import holds_weights, read_json
from phys4d.models.spec import ModelSpec, Outline, Parts, Sampling, Settings
from phys4d.models.t5 import encoders_of


def _outline(settings: Settings, folder: Path | None) -> Outline:
    folder = given("cogvideox", folder)
    # A run that reads all tokens from caches needs no text encoder; `Encoders.check` asks for its weights.
    published = check_released(folder, text_weights=holds_weights(folder / "text_encoder"))
    transformer, vae = published.transformer.config, published.vae.config
    return Outline(
        transformer=published.transformer,
        layers=transformer.num_layers,
        width=transformer.num_attention_heads * transformer.attention_head_dim,
        heads=transformer.num_attention_heads,
        channels=vae.latent_channels,
        token_stride=token_stride(transformer, vae),
        steps=STEPS,
        shift=published.snr_shift,
        check_size=size_check(transformer, vae),
    )


def build_transformer(folder: Path) -> CogVideoXTransformer3DModel:
    """The transformer of a folder, without its weights, in fp32, whatever they are stored in, since it is trained; so
    are the positions, which its class computes in fp64."""
    with without_weights():
        return CogVideoXTransformer3DModel.from_config(read_json(folder / "config.json")).float()


def _encoders(folder: Path) -> tuple[CogVideoXCodec, T5Encoder]:
    config = read_json(folder / "transformer" / "config.json")
    reads_image = config.get("in_channels", 16) > config.get("out_channels", 16)
    tokens = config.get("max_text_seq_length", 226)
    codec = CogVideoXCodec(folder / "vae", image_apart=reads_image)
    return codec, T5Encoder(folder / "text_encoder", folder / "tokenizer", tokens)


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    weights, (codec, text) = folder / "transformer", _encoders(folder)
    backbone = CogVideoXBackbone(build_transformer(weights), taps, Process(*published_noise(folder)), codec.image_scale)
    return Parts(backbone, codec, text, weights)


SPEC = ModelSpec(
    kind="cogvideox",
    title="CogVideoX-5B",
    outline=_outline,
    bare=bare,
    load=_load,
    encoders=encoders_of(LAYOUT, "T5", _encoders),
    recognises=lambda folder: class_name(folder / "transformer") == CogVideoXTransformer3DModel.__name__,
    released=PUBLISHED,
    sampling=lambda folder: Sampling("euler", GUIDANCE, SIZE),
)
