"""World models on disk: the diffusers layout for the backbone, adapters in peft's layout, safetensors throughout.

phys4d.json                        what this is: configuration, clip size, adapters, the stage that wrote it
transformer/                       diffusers folder (absent where `base` names another folder)
vae/                               likewise, of a codec that the project trains (`small`)
adapters/<name>/                   a LoRA, for diffusers and for peft (`lora.save_adapter`)
heads/model.safetensors
manifest.json                      size and SHA-256 of every file, checked before weights are read
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from phys4d.engine import integrity
from phys4d.engine.distributed.collectives import full
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.storage import disk_fault
from phys4d.models.base_weights import without_weights
from phys4d.models.card import CARD, Card, base_of, read_card
from phys4d.models.config import ModelConfig, ResolvedConfig
from phys4d.models.hub_digests import check_downloaded
from phys4d.models.interface import Grid
from phys4d.models.lora import adapter_names, load_adapter, save_adapter
from phys4d.models.preflight import HEADS, check_files, check_model
from phys4d.models.registry import MODELS
from phys4d.models.shipped import shown
from phys4d.models.spec import default_shift
from phys4d.models.world import WorldModel


@dataclass(frozen=True)
class Loaded:
    """A model, the stage that wrote it ("released" for a diffusers folder) and the folder that holds its backbone.

    The transformer's parameters are on meta: `placement.place` puts the model on a device and reads them.
    """

    model: WorldModel
    stage: str
    base: Path


def save(
    model: WorldModel, folder: Path, *, stage: str, base: Path | None, parallel: Parallel | None = None
) -> None:
    """Writes the model to `folder`, complete or not at all; the backbone itself only where `base` is None.

    With `base`, the folder names the one that holds the unchanged backbone, whose weights are not gathered. UserError
    where the disk does not take it.

    model: placed. folder: is replaced where it is there. stage: that wrote it. base: see above. parallel: the ranks
    over which the model is sharded, all of which must call this; None for a whole model.
    """
    parallel = parallel or Parallel.alone()
    weights = _gathered(model, whole=base is None, kept=parallel.rank == 0)
    parallel.on_rank_zero(lambda: _save(model, weights, folder, stage, base))


def _gathered(model: WorldModel, *, whole: bool, kept: bool) -> dict[str, dict[str, Tensor]]:
    """What a model folder stores of the transformer, of the heads and of a codec, by parameter, on the CPU; a
    collective where they are sharded. whole: the backbone's own weights and its codec's, too; kept: False gives
    nothing, for ranks that do not write."""
    found: dict[str, dict[str, Tensor]] = {}
    modules = {"transformer": model.backbone.transformer, "heads": model.heads, "codec": model.own_codec}
    for part, module in modules.items():
        found[part] = {}
        if module is None:
            continue
        for name, tensor in module.state_dict(keep_vars=True).items():
            if whole or part == "heads" or ".lora_" in name:
                tensor = full(tensor).detach()
                if kept:
                    found[part][name] = tensor.cpu()
    return found


def _save(
    model: WorldModel, weights: dict[str, dict[str, Tensor]], folder: Path, stage: str, base: Path | None
) -> None:
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(model, weights, partial, _card(model, folder, stage, base), whole=base is None)
        if folder.exists():
            integrity.remove(folder)
        integrity.publish(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = disk_fault(error) or " ".join(str(error).split())
        raise UserError(f"{folder}: cannot be written: {reason}: make room, then --resume") from error


def _write(
    model: WorldModel, weights: dict[str, dict[str, Tensor]], partial: Path, card: Card, *, whole: bool
) -> None:
    """All files of a model folder; the backbone among them only where it is to be `whole`."""
    transformer = model.backbone.transformer
    if whole:
        _with_weights(transformer, weights["transformer"]).save_pretrained(partial / "transformer")
        if weights["codec"]:
            _with_weights(model.codec, weights["codec"]).save_pretrained(partial / "vae")
    for name in adapter_names(transformer):
        save_adapter(transformer, name, partial / "adapters" / name, weights["transformer"])
    (partial / HEADS).parent.mkdir()
    save_file(weights["heads"], partial / HEADS, metadata={"format": "pt"})
    (partial / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _with_weights(module: Any, weights: dict[str, Tensor]) -> Any:
    """A module of diffusers of the same class and configuration that holds these weights; they are not copied."""
    settings = {name: value for name, value in module.config.items() if not name.startswith("_")}
    with without_weights():
        fresh: nn.Module = type(module)(**settings)
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in weights.items() if ".lora_" not in name}
    fresh.load_state_dict(own, assign=True)
    return fresh


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
    own, parent = base.resolve(), folder.resolve().parent
    return f"../{own.name}" if own.parent == parent else shown(own if shown(base) == str(base) else base)


def load(folder: Path) -> Loaded:
    """Reads what `save` wrote, all but the backbone's weights. UserError naming the file where something is missing,
    damaged or does not fit."""
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
    resolved = config.resolved(outline.steps, default_shift(outline, size))
    model = _assemble(resolved, folder, Grid(*size, outline.token_stride), seed=seed)
    return Loaded(model.requires_grad_(False), "released", folder)


def _assemble(config: ResolvedConfig, base: Path, grid: Grid, *, seed: int = 0) -> WorldModel:
    """The backbone in `base` with its codec and text encoder, and untrained heads drawn from `seed`."""
    return WorldModel(config, grid, MODELS[config.kind].load(base, config.taps), seed)
