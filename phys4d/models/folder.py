"""World models on disk: the diffusers layout for the backbone, adapters in peft's layout, safetensors throughout.

phys4d.json                        what this is: configuration, clip size, adapters, the stage that wrote it
transformer/                       diffusers folder (absent where `base` names another folder)
adapters/<name>/                   a LoRA, for diffusers and for peft (`lora.save_adapter`)
heads/model.safetensors
manifest.json                      size and SHA-256 of every file, checked before weights are read
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from phys4d.engine import integrity
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.storage import disk_fault
from phys4d.models.card import CARD, Card, base_of, read_card
from phys4d.models.config import ModelConfig, ResolvedConfig
from phys4d.models.hub_digests import check_downloaded
from phys4d.models.interface import Grid
from phys4d.models.lora import adapter_names, load_adapter, save_adapter
from phys4d.models.preflight import HEADS, check_files, check_model
from phys4d.models.registry import MODELS
from phys4d.models.world import WorldModel


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
        if folder.exists():
            integrity.remove(folder)
        integrity.publish(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = disk_fault(error) or " ".join(str(error).split())
        raise UserError(f"{folder}: cannot be written: {reason}: make room, then --resume") from error


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
    """Reads what `save` wrote. UserError naming the file where something is missing, damaged or does not fit."""
    outline = check_model(folder)
    check_files(folder, hashed=True)
    card = read_card(folder)
    base = base_of(card, folder)
    model = _assemble(card.model, base, Grid(*card.size, outline.token_stride))
    rename = MODELS[card.model.kind].rename_lora
    try:
        for name in card.adapters:
            load_adapter(model.backbone.transformer, name, folder / "adapters" / name, rename)
        load_model(model.heads, str(folder / HEADS))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: weights do not load ({reason}): delete it and resume its run") from error
    return Loaded(model.requires_grad_(False), card.stage, base)


def released(folder: Path, config: ModelConfig, size: tuple[int, int, int], *, seed: int = 0) -> Loaded:
    """A pretrained backbone in the diffusers folder layout with its codec and text encoder, and new heads.

    size is (frames, height, width) of the clips to come; seed: of the heads' initial weights. Steps and shift that
    `config` leaves out are those of the folder.
    """
    outline = MODELS[config.kind].outline(config, folder)
    check_downloaded(folder)
    resolved = config.resolved(outline.steps, outline.shift)
    model = _assemble(resolved, folder, Grid(*size, outline.token_stride), seed=seed)
    return Loaded(model.requires_grad_(False), "released", folder)


def _assemble(config: ResolvedConfig, base: Path, grid: Grid, *, seed: int = 0) -> WorldModel:
    """The backbone in `base` with its codec and text encoder, and untrained heads drawn from `seed`."""
    return WorldModel(config, grid, MODELS[config.kind].load(base, config.taps), seed)
