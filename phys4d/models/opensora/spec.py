"""Open-Sora 1.2 as a kind of model."""

from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.models.base_weights import without_weights
from phys4d.models.diffusers_folder import given
from phys4d.models.headers import holds_weights, read_json
from phys4d.models.opensora.backbone import GUIDANCE, SIZE, STEPS, OpenSoraBackbone, published_shift
from phys4d.models.opensora.bare import PUBLISHED, bare, strides
from phys4d.models.opensora.codec import OpenSoraCodec
from phys4d.models.opensora.published import LAYOUT, check_released, class_of, settings_of
from phys4d.models.opensora.text import T5Encoder
from phys4d.models.opensora.transformer import STDiT3
from phys4d.models.spec import ModelSpec, Outline, Parts, Sampling, Settings
from phys4d.models.t5 import encoders_of


def _outline(settings: Settings, folder: Path | None) -> Outline:
    folder = given("opensora", folder)
    # A run that reads all tokens from caches needs no text encoder; `Encoders.check` asks for its weights.
    transformer = check_released(folder, text_weights=holds_weights(folder / "text_encoder")).transformer
    return Outline(
        transformer=transformer,
        layers=len(transformer.blocks),
        width=transformer.config.hidden_size,
        heads=transformer.config.num_heads,
        channels=transformer.config.in_channels,
        token_stride=strides(transformer),
        steps=STEPS,
        shift=1.0,
        shift_of=published_shift,
    )


def _encoders(folder: Path) -> tuple[OpenSoraCodec, T5Encoder]:
    return OpenSoraCodec(folder / "vae"), T5Encoder(folder / "text_encoder", folder / "tokenizer")


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    weights = folder / "transformer"
    with without_weights():  # in fp32, whatever they are stored in, since it is trained
        transformer = STDiT3(**settings_of(read_json(weights / "config.json")))
    return Parts(OpenSoraBackbone(transformer, taps), *_encoders(folder), weights)


def _recognises(folder: Path) -> bool:
    try:
        return class_of(read_json(folder / "transformer" / "config.json")) == STDiT3.__name__
    except UserError:
        return False


SPEC = ModelSpec(
    kind="opensora",
    title="Open-Sora 1.2",
    outline=_outline,
    bare=bare,
    load=_load,
    encoders=encoders_of(LAYOUT, "T5", _encoders),
    recognises=_recognises,
    released=(PUBLISHED,),
    sampling=lambda folder: Sampling("euler", GUIDANCE, SIZE),
    learned_no_caption=True,
    divides_frames=True,
)
