"""`small` as a kind of model: made with random weights, or read from a folder: of a stage, or of trained weights."""

from pathlib import Path

from diffusers import WanTransformer3DModel

from phys4d.engine.errors import UserError
from phys4d.models.diffusers_folder import check_stored, class_name, on_meta, read_config
from phys4d.models.initial import draw_layers
from phys4d.models.origin import part_origin
from phys4d.models.small.backbone import PATCH, SmallBackbone, small_transformer
from phys4d.models.small.codec import SmallCodec
from phys4d.models.spec import Bare, Encoders, LoraDefaults, ModelSpec, Outline, Parts, Published, Sampling, Settings
from phys4d.models.tiny.backbone import draw_transformer
from phys4d.models.tiny.words import WordEncoder
from phys4d.models.wan.published import check_transformer
from phys4d.models.wan.spec import build_transformer

STEPS, SHIFT = 10, 3.0
CLIP = (13, 48, 48)  # on which the weights that come with the package were trained
_TOKENS = 64  # of a caption; those of chains and stacks have more than 32 words
_STRIDE = (SmallCodec.temporal_stride * PATCH[0], *(SmallCodec.spatial_stride * n for n in PATCH[1:]))
_LAYOUT = "expected a folder of small, with transformer and vae"


def _text() -> WordEncoder:
    return WordEncoder(tokens=_TOKENS)


def _new(settings: Settings, codec: SmallCodec) -> WanTransformer3DModel:
    return small_transformer(codec.channels, settings.width, settings.layers, _text().width)


def _outline(settings: Settings, folder: Path | None) -> Outline:
    if folder is None:
        codec = on_meta(Path("model"), SmallCodec)
        transformer = on_meta(Path("model"), lambda: _new(settings, codec))
    else:
        path = folder / "vae" / "config.json"
        table = read_config(path, SmallCodec.__name__, "small")
        codec = on_meta(path, lambda: SmallCodec.from_config(table))
        check_stored(folder / "vae", codec, _LAYOUT)
        transformer = check_transformer(folder / "transformer", taken="small", layout=_LAYOUT)
        if transformer.config.in_channels != 2 * codec.channels:
            raise UserError(
                f"{folder}: the transformer takes {transformer.config.in_channels} channels, twice the codec's "
                f"{codec.channels} are {2 * codec.channels}: are they of one model?"
            )
    config = transformer.config
    return Outline(
        transformer=transformer,
        layers=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        heads=config.num_attention_heads,
        channels=codec.channels,
        token_stride=_STRIDE,
        steps=STEPS,
        shift=SHIFT,
    )


def _codec(folder: Path) -> SmallCodec:
    codec: SmallCodec = SmallCodec.from_pretrained(folder / "vae").float()
    return codec.eval()


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    transformer = folder / "transformer"
    return Parts(SmallBackbone(build_transformer(transformer), taps), _codec(folder), _text(), transformer)


def _create(settings: Settings, taps: tuple[int, ...], seed: int) -> Parts:
    codec = SmallCodec()
    draw_layers(codec, seed, "codec")
    transformer = _new(settings, codec)
    draw_transformer(transformer, seed)
    return Parts(SmallBackbone(transformer, taps), codec, _text())


def _bare(settings: Settings, source: Published) -> Bare:
    width, layers = settings.width, settings.layers
    if isinstance(source, Path):
        config = read_config(source / "transformer" / "config.json", "WanTransformer3DModel", "small")
        width, layers = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"]

    def build(layers: int, taps: tuple[int, ...], seed: int) -> Parts:
        text, codec = _text(), SmallCodec()
        transformer = small_transformer(codec.channels, width, layers, text.width)
        return Parts(SmallBackbone(transformer, taps), codec, text)

    return Bare(layers, _STRIDE, STEPS, SHIFT, build)


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise UserError('small: a new model\'s codec is untrained: name a model folder, or set cache = "off"')
    return folder


def _encoders(folder: Path | None) -> tuple[SmallCodec, WordEncoder]:
    return _codec(_given(folder)), _text()


def _origin(folder: Path | None) -> dict[str, str]:
    codec, width = part_origin(_given(folder) / "vae", _LAYOUT), _text().width
    return {"codec": codec, "text encoder": f"words, {_TOKENS} tokens of {width}"}


def _recognises(folder: Path) -> bool:
    return class_name(folder / "vae") == SmallCodec.__name__


def _sampling(source: Published) -> Sampling:
    return Sampling(size=CLIP)


SPEC = ModelSpec(
    kind="small",
    title="phys4d small",
    outline=_outline,
    bare=_bare,
    load=_load,
    create=_create,
    check_caption=_text().split,
    encoders=Encoders(build=_encoders, origin=_origin, check_prompt=WordEncoder.split),
    recognises=_recognises,
    sampling=_sampling,
    lora=LoraDefaults(16, 16),
)
