"""`tiny` as a kind of model: made with random weights, or read from a model folder that a stage wrote."""

from pathlib import Path

from diffusers import WanTransformer3DModel

from phys4d.models.diffusers_folder import on_meta, read_config
from phys4d.models.spec import Bare, Encoders, LoraDefaults, ModelSpec, Outline, Parts, Published, Settings
from phys4d.models.tiny.backbone import PATCH, TinyBackbone, draw_transformer, tiny_transformer
from phys4d.models.tiny.haar import HaarCodec
from phys4d.models.tiny.words import WordEncoder
from phys4d.models.wan.published import check_transformer
from phys4d.models.wan.spec import build_transformer

STEPS, SHIFT = 10, 3.0


def _outline(settings: Settings, folder: Path | None) -> Outline:
    if folder is None:
        transformer: WanTransformer3DModel = on_meta(
            Path("model"), lambda: tiny_transformer(settings.width, settings.layers)
        )
    else:
        transformer = check_transformer(folder / "transformer")
    config, (t, h, w) = transformer.config, PATCH
    temporal, spatial = HaarCodec.temporal_stride, HaarCodec.spatial_stride
    return Outline(
        transformer=transformer,
        layers=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        heads=config.num_attention_heads,
        channels=HaarCodec.channels,
        token_stride=(temporal * t, spatial * h, spatial * w),
        steps=STEPS,
        shift=SHIFT,
    )


def _load(folder: Path, taps: tuple[int, ...]) -> Parts:
    transformer = folder / "transformer"
    return Parts(TinyBackbone(build_transformer(transformer), taps), HaarCodec(), WordEncoder(), transformer)


def _create(settings: Settings, taps: tuple[int, ...], seed: int) -> Parts:
    text = WordEncoder()
    transformer = tiny_transformer(settings.width, settings.layers, text_width=text.width)
    draw_transformer(transformer, seed)
    return Parts(TinyBackbone(transformer, taps), HaarCodec(), text)


def _bare(settings: Settings, source: Published) -> Bare:
    width, layers = settings.width, settings.layers
    if isinstance(source, Path):
        config = read_config(source / "transformer" / "config.json", "WanTransformer3DModel", "tiny")
        width, layers = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"]

    def build(layers: int, taps: tuple[int, ...], seed: int) -> Parts:
        text = WordEncoder()
        return Parts(TinyBackbone(tiny_transformer(width, layers, text_width=text.width), taps), HaarCodec(), text)

    temporal, spatial = HaarCodec.temporal_stride, HaarCodec.spatial_stride
    return Bare(layers, (temporal * PATCH[0], spatial * PATCH[1], spatial * PATCH[2]), STEPS, SHIFT, build)


ENCODERS = Encoders(
    build=lambda folder: (HaarCodec(), WordEncoder()),
    origin=lambda folder: {"codec": "Haar 4x4x4", "text encoder": "words, 32 tokens of 64"},
    check_prompt=WordEncoder.split,
)

SPEC = ModelSpec(
    kind="tiny",
    title=None,
    outline=_outline,
    bare=_bare,
    load=_load,
    create=_create,
    check_caption=WordEncoder().split,
    encoders=ENCODERS,
    lora=LoraDefaults(16, 16),
)
