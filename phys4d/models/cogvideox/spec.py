"""CogVideoX-5B and CogVideoX-5B-I2V as a kind of model."""

from functools import partial
from pathlib import Path

from diffusers import CogVideoXTransformer3DModel

from phys4d.engine.errors import UserError
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
    check_text_encoder,
    published_noise,
    size_check,
    token_stride,
)
from phys4d.models.cogvideox.text import T5Encoder
from phys4d.models.diffusers_folder import class_name
from phys4d.models.headers import holds_weights, read_json
from phys4d.models.origin import origin
from phys4d.models.spec import Encoders, ModelSpec, Outline, Parts, Sampling, Settings


def _outline(settings: Settings, folder: Path | None) -> Outline:
    if folder is None:
        raise UserError('model.kind: "cogvideox" without init: name the folder of the released model as init')
    # A run that reads all tokens from caches needs no text encoder; `ENCODERS.check` asks for its weights.
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


def _encoders(folder: Path | None) -> tuple[CogVideoXCodec, T5Encoder]:
    assert folder is not None, "CogVideoX has weights"
    config = read_json(folder / "transformer" / "config.json")
    reads_image = config.get("in_channels", 16) > config.get("out_channels", 16)
    tokens = config.get("max_text_seq_length", 226)
    codec = CogVideoXCodec(folder / "vae", image_apart=reads_image)
    return codec, T5Encoder(folder / "text_encoder", folder / "tokenizer", tokens)


def _check_text(folder: Path | None) -> None:
    assert folder is not None, "CogVideoX has weights"
    check_text_encoder(folder / "text_encoder")


def _check_prompt(encoder: T5Encoder, prompt: str) -> None:
    if (count := len(encoder.tokenizer(prompt).input_ids)) > encoder.tokens:
        raise ValueError(f"{count} tokens, the text encoder takes {encoder.tokens}: shorten it")


ENCODERS = Encoders(_encoders, partial(origin, LAYOUT), _check_text, _check_prompt)


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
    encoders=ENCODERS,
    recognises=lambda folder: class_name(folder / "transformer") == CogVideoXTransformer3DModel.__name__,
    released=PUBLISHED,
    sampling=lambda folder: Sampling("euler", GUIDANCE, SIZE),
)
