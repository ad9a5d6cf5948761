"""World models on disk: the diffusers layout for the backbone, adapters in peft's layout, safetensors throughout.

phys4d.json                        what this is: configuration, clip size, adapters, the stage that wrote it
transformer/                       diffusers folder (absent where `base` names another folder)
adapters/<name>/pytorch_lora_weights.safetensors
heads/model.safetensors
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from diffusers import WanTransformer3DModel
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.storage import disk_fault
from phys4d.engine.telemetry import provenance
from phys4d.models.backbone import WanBackbone
from phys4d.models.haar import HaarCodec
from phys4d.models.interface import Codec, Grid, TextEncoder
from phys4d.models.lora import adapter_names, load_adapter, save_adapter
from phys4d.models.text import UMT5Encoder, WordEncoder
from phys4d.models.wan_vae import WanCodec
from phys4d.models.world import ModelConfig, WorldModel, token_stride

CARD = "phys4d.json"


class Card(Config):
    """The contents of phys4d.json."""

    format: int
    stage: str
    model: ModelConfig
    frames: int
    height: int
    width: int
    adapters: tuple[str, ...]
    base: str | None
    provenance: dict[str, object]


@dataclass(frozen=True)
class Loaded:
    """A model, the stage that wrote it ("released" for a diffusers folder) and the folder that holds its backbone."""

    model: WorldModel
    stage: str
    base: Path


def save(model: WorldModel, folder: Path, *, stage: str, base: Path | None) -> None:
    """Writes the model to `folder`, complete or not at all; the backbone itself only where `base` is None.

    With `base`, the folder names the one that holds the unchanged backbone. UserError where the disk does not take it.
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(model, partial, _card(model, folder, stage, base), whole=base is None)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = disk_fault(error) or " ".join(str(error).split())
        raise UserError(f"{folder}: cannot be written: {reason}: make room, then --resume") from error
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _write(model: WorldModel, partial: Path, card: Card, *, whole: bool) -> None:
    """All files of a model folder; the backbone among them only where it is to be `whole`."""
    transformer = model.backbone.transformer
    if whole:
        transformer.save_pretrained(partial / "transformer", safe_serialization=True)
    for name in adapter_names(transformer):
        save_adapter(transformer, name, partial / "adapters" / name)
    (partial / "heads").mkdir()
    save_model(model.heads, str(partial / "heads" / "model.safetensors"))
    (partial / CARD).write_text(card.model_dump_json(indent=1) + "\n")


def _card(model: WorldModel, folder: Path, stage: str, base: Path | None) -> Card:
    return Card(
        format=1,
        stage=stage,
        model=model.config,
        frames=model.grid.frames,
        height=model.grid.height,
        width=model.grid.width,
        adapters=adapter_names(model.backbone.transformer),
        base=None if base is None else _pointer(base, folder),
        provenance=provenance(),
    )


def _pointer(base: Path, folder: Path) -> str:
    base, parent = base.resolve(), folder.resolve().parent
    return f"../{base.name}" if base.parent == parent else str(base)


def load(folder: Path) -> Loaded:
    """Reads what `save` wrote. UserError naming the file where something is missing or does not fit."""
    card = read_card(folder)
    base = folder if card.base is None else (folder / card.base).resolve()
    model = assemble(card.model, base, (card.frames, card.height, card.width))
    try:
        for name in card.adapters:
            load_adapter(model.backbone.transformer, name, folder / "adapters" / name)
        load_model(model.heads, str(folder / "heads" / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: weights do not load ({reason}): export the model again") from error
    return Loaded(model.requires_grad_(False), card.stage, base)


def read_card(folder: Path) -> Card:
    """The validated phys4d.json of a model folder, or UserError."""
    path = folder / CARD
    if not path.is_file():
        raise UserError(f"{path}: no such file: name a model folder written by a stage (it holds {CARD})")
    try:
        return Card.model_validate_json(path.read_text(), strict=False)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: {key}: {fault['msg']}: this file is not of this version of phys4d") from error


def released(folder: Path, config: ModelConfig, size: tuple[int, int, int]) -> Loaded:
    """A pretrained backbone in the diffusers folder layout (transformer/, vae/, text_encoder/, tokenizer/), new heads.

    size is (frames, height, width) of the clips to come.
    """
    check_layout(folder)
    return Loaded(assemble(config, folder, size).requires_grad_(False), "released", folder)


def check_layout(folder: Path) -> None:
    """UserError unless a folder has the parts of a pretrained model."""
    missing = [n for n in ("transformer", "vae", "text_encoder", "tokenizer") if not (folder / n).is_dir()]
    if missing:
        raise UserError(f"{folder}: no {', '.join(missing)}: expected the diffusers layout of Wan2.2-TI2V-5B")


def assemble(config: ModelConfig, base: Path, size: tuple[int, int, int]) -> WorldModel:
    """The backbone in `base` with its codec and text encoder, and untrained heads."""
    weights = base / "transformer"
    if not (weights / "config.json").is_file():
        raise UserError(
            f"{weights / 'config.json'}: no such file: the folder that holds the backbone was moved or removed"
        )
    declared = json.loads((weights / "config.json").read_text()).get("_class_name")
    if declared != "WanTransformer3DModel":
        raise UserError(f"{weights / 'config.json'}: _class_name: expected WanTransformer3DModel, got {declared}")
    transformer = WanTransformer3DModel.from_pretrained(weights, use_safetensors=True)
    codec: Codec
    text: TextEncoder
    if config.kind == "tiny":
        backbone = WanBackbone(transformer, config.taps, "gated_clean")
        codec, text = HaarCodec(), WordEncoder()
    else:
        backbone = WanBackbone(transformer, config.taps, "velocity")
        codec, text = WanCodec(base / "vae"), UMT5Encoder(base / "text_encoder", base / "tokenizer")
    return WorldModel(config, Grid(*size, token_stride(codec, backbone.patch)), backbone, codec, text)
