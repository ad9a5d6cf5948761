"""World models on disk: the diffusers layout for the backbone, adapters in peft's layout, safetensors throughout.

phys4d.json                        what this is: configuration, clip size, adapters, the stage that wrote it
transformer/                       diffusers folder (absent where `base` names another folder)
adapters/<name>/                   a LoRA, for diffusers and for peft (`lora.save_adapter`)
heads/model.safetensors
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from phys4d.engine.errors import UserError
from phys4d.engine.storage import disk_fault
from phys4d.engine.telemetry import provenance
from phys4d.models.backbone import WanBackbone
from phys4d.models.card import CARD, Card, base_of, read_card
from phys4d.models.haar import HaarCodec
from phys4d.models.interface import Codec, Grid, TextEncoder
from phys4d.models.lora import adapter_names, load_adapter, save_adapter
from phys4d.models.preflight import HEADS, check_model
from phys4d.models.published import check_released
from phys4d.models.quiet import no_bars
from phys4d.models.sampling import STEPS
from phys4d.models.text import UMT5Encoder, WordEncoder
from phys4d.models.wan_vae import WanCodec
from phys4d.models.world import ModelConfig, SettledConfig, WorldModel, token_stride


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
    (partial / HEADS).parent.mkdir()
    save_model(model.heads, str(partial / HEADS))
    (partial / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


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
    check_model(folder)
    card = read_card(folder)
    base = base_of(card, folder)
    model = assemble(card.model, base, card.size)
    try:
        for name in card.adapters:
            load_adapter(model.backbone.transformer, name, folder / "adapters" / name)
        load_model(model.heads, str(folder / HEADS))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: weights do not load ({reason}): delete it and resume its run") from error
    return Loaded(model.requires_grad_(False), card.stage, base)


def released(folder: Path, config: ModelConfig, size: tuple[int, int, int], *, seed: int = 0) -> Loaded:
    """A pretrained backbone in the diffusers folder layout (transformer/, vae/, text_encoder/, tokenizer/, scheduler/),
    new heads.

    size is (frames, height, width) of the clips to come; seed: of the heads' initial weights. Steps and shift that
    `config` leaves out are those of the folder.
    """
    shift = check_released(folder).shift
    model = assemble(config.settled(STEPS, shift), folder, size, seed=seed)
    return Loaded(model.requires_grad_(False), "released", folder)


def assemble(config: SettledConfig, base: Path, size: tuple[int, int, int], *, seed: int = 0) -> WorldModel:
    """The backbone in `base` with its codec and text encoder, and untrained heads drawn from `seed`.

    The transformer is held in fp32 whatever it is stored in, since it is trained: in bf16 the small steps of an
    optimiser are rounded away. `WanBackbone.precision` decides what its products are computed in.
    """
    with no_bars():
        transformer = WanTransformer3DModel.from_pretrained(
            base / "transformer", torch_dtype=torch.float32, use_safetensors=True
        )
    codec: Codec
    text: TextEncoder
    if config.kind == "tiny":
        backbone = WanBackbone(transformer, config.taps, "gated_clean")
        codec, text = HaarCodec(), WordEncoder()
    else:
        backbone = WanBackbone(transformer, config.taps, "velocity")
        codec, text = WanCodec(base / "vae"), UMT5Encoder(base / "text_encoder", base / "tokenizer")
    return WorldModel(config, Grid(*size, token_stride(codec, backbone.patch)), backbone, codec, text, seed)
