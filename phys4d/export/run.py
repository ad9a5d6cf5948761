"""`phys4d export`: a folder that stock diffusers loads and samples with the same result, or a LoRA for others."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import progress
from phys4d.engine.storage import disk_fault, finish
from phys4d.export.joined import Layers, joined, write_comfyui, write_merged
from phys4d.generate.opening import model_of
from phys4d.models.card import base_of, read_card
from phys4d.models.headers import read_json
from phys4d.models.lora import attach, save_adapter
from phys4d.models.lora_file import read_lora
from phys4d.models.preflight import check_files, check_model
from phys4d.models.registry import MODELS

What = Literal["whole", "merged", "lora", "comfyui"]
README = "README.md"
_OWN = ("adapters", "heads")  # folders of a model folder that are not of the diffusers layout
_CONFIGS = ("config.json", "tokenizer_config.json", "scheduler_config.json", "preprocessor_config.json")


def export(path: Path, out: Path, what: What, dtype: Literal["stored", "bf16"] = "stored") -> str:
    """Writes a model of a run to the folder `out`, which is complete or absent, and returns a line about it.

    path: a run folder or a model folder. what: "whole", the folder of its backbone and lora/; "merged", the same with
    the LoRA added to the weights; "lora", lora/ alone; "comfyui", the LoRA alone in that layout. LoRAs of several
    stages are joined to one. dtype: "bf16" rounds the weights of "whole" and "merged" that are in fp32.

    Raises UserError where the model is not whole, has no LoRA to write, or the folder cannot be written.
    """
    folder = model_of(path)
    outline = check_model(folder)
    check_files(folder, hashed=True)
    card = read_card(folder)
    base, spec = base_of(card, folder), MODELS[card.model.kind]
    if dtype == "bf16" and what in ("lora", "comfyui"):
        raise UserError("--dtype bf16: is of whole models, not of a LoRA alone")
    loras = [read_lora(folder / "adapters" / name, spec.rename_lora)[1] for name in card.adapters]
    if not loras and what != "whole":
        raise UserError(f"{folder}: has no LoRA: it is the model of a stage that trains none ({card.stage})")
    layers = joined(loras) if loras else {}

    def write(partial: Path) -> None:
        if what == "comfyui":
            write_comfyui(partial / "lora.safetensors", layers, _comfyui_names(card.model.kind, layers))
        elif layers and what != "merged":
            attach(outline.transformer, "exported", layers)
            save_adapter(outline.transformer, "exported", partial / "lora")
        if what in ("whole", "merged"):
            _copy(base, partial, layers if what == "merged" else {}, torch.bfloat16 if dtype == "bf16" else None)
        (partial / README).write_text(_readme(base, outline.transformer, what, bool(layers)), encoding="utf-8")

    _publish(out, write)
    ranks = sorted({len(layer.a) for layer in layers.values()})
    lora = f"LoRA of rank {', '.join(map(str, ranks))} on {len(layers)} modules" if layers else "no LoRA"
    return f"{out}: {card.stage} ({what}), {lora}"


def _comfyui_names(kind: str, layers: Layers) -> dict[str, str]:
    name_of = MODELS[kind].comfyui_name
    if name_of is None:
        raise UserError(f'--layout comfyui: is not written for models of the kind "{kind}"')
    try:
        return {module: name_of(module) for module in layers}
    except ValueError as error:
        raise UserError(f"--layout comfyui: {error}: export it as --layout diffusers") from None


def _publish(out: Path, write: Callable[[Path], object]) -> None:
    output = OutputFolder.of(out)
    shutil.rmtree(output.partial, ignore_errors=True)  # of an export that was stopped
    output.prepare()
    try:
        write(output.partial)
        for root, _, names in os.walk(output.partial):  # the folder is complete once it is in its place
            for path in (*(Path(root, name) for name in names), Path(root)):
                finish(path, like=output.partial / README)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(output.partial, ignore_errors=True)
        raise UserError(f"{out}: cannot be written: {disk_fault(error) or ' '.join(str(error).split())}") from None
    except BaseException:
        shutil.rmtree(output.partial, ignore_errors=True)
        raise
    output.publish(README, ())


def _copy(base: Path, out: Path, layers: Layers, dtype: torch.dtype | None) -> None:
    """Copies the folders of a model in the diffusers layout, the transformer's weights with `layers` added to them.
    dtype: see `write_merged`."""
    files, sizes = list(_files(base)), dict[Path, int]()
    with progress("export", total=sum(path.stat().st_size for path in files) >> 20, unit="MiB") as bar:
        for path in files:
            target = out / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            of_file = layers if path.parent == base / "transformer" else {}
            if path.suffix == ".safetensors" and (of_file or dtype is not None):
                sizes[target] = write_merged(path, target, of_file, dtype)
            else:
                shutil.copyfile(path, target)
            bar.advance(path.stat().st_size >> 20)
    for index in out.rglob("*.safetensors.index.json") if dtype is not None else ():
        table = read_json(index)
        table["metadata"] = {"total_size": sum(sizes[index.parent / name] for name in {*table["weight_map"].values()})}
        index.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _files(base: Path) -> Iterator[Path]:
    if (base / "model_index.json").is_file():
        yield base / "model_index.json"
    for folder in sorted(path for path in base.iterdir() if path.is_dir() and path.name not in _OWN):
        if any((folder / name).is_file() for name in _CONFIGS):
            for root, _, names in os.walk(folder):
                yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _readme(base: Path, transformer: object, what: What, has_lora: bool) -> str:
    """How to load what was written."""
    if what == "comfyui":
        return "# A LoRA\n`lora.safetensors` has the key names of ComfyUI and musubi: copy it to models/loras there.\n"
    index = base / "model_index.json"
    name = read_json(index).get("_class_name") if index.is_file() else None
    if name is None and not type(transformer).__module__.startswith("diffusers."):
        return _readme_without_diffusers(what, has_lora)
    if name is None:
        name, variable, place = type(transformer).__name__, "transformer", "THIS FOLDER/transformer"
    else:
        variable, place = "pipe", "THIS FOLDER"
    lines = [f"from diffusers import {name}", ""]
    lines.append(f'{variable} = {name}.from_pretrained("{place if what != "lora" else "THE MODEL"}")')
    if has_lora and what != "merged":
        load = "load_lora_weights" if variable == "pipe" else "load_lora_adapter"
        more = "" if variable == "pipe" else ', weight_name="pytorch_lora_weights.safetensors", use_safetensors=True'
        lines.append(f'{variable}.{load}("THIS FOLDER/lora"{more})')
    return "# A model for diffusers\n" + "".join(f"    {line}".rstrip() + "\n" for line in lines)


def _readme_without_diffusers(what: What, has_lora: bool) -> str:
    """The same of a model whose class diffusers does not have."""
    words = ["phys4d generate", "--model", '"THIS FOLDER"' if what != "lora" else '"THE MODEL"']
    if has_lora and what != "merged":
        words += ["--lora", '"THIS FOLDER/lora"']
    lines = ["# A model that diffusers has no class for", f"    {' '.join(words)} --image ... --prompt ...", ""]
    lines.append("Weights have the names that they were published with; `lora/` loads in peft, too.")
    return "\n".join(lines) + "\n"
