"""The LoRAs of a model as one, since they act together, and that one added to the weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from phys4d.models.lora_file import LoraLayer

Layers = Mapping[str, LoraLayer]


def joined(loras: Sequence[Layers]) -> dict[str, LoraLayer]:
    """One LoRA with the sum of the effects of several: A stacked on A, B beside B times its scale.

    One alone is returned as it is; else the scale is 1, and the rank of a module the sum of its ranks.
    """
    if len(loras) == 1:
        return dict(loras[0])
    found = {}
    for module in sorted({module for lora in loras for module in lora}):
        layers = [lora[module] for lora in loras if module in lora]
        a = torch.cat([layer.a for layer in layers])
        b = torch.cat([layer.b * layer.scale for layer in layers], 1)
        found[module] = LoraLayer(a, b, 1.0, layers[0].keys)
    return found


def write_comfyui(path: Path, layers: Layers, names: Mapping[str, str]) -> None:
    """Writes a LoRA as ComfyUI and musubi read it: lora_down, lora_up and alpha under `diffusion_model.`.

    layers: by module. names: of each module in that layout.
    """
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.items():
        prefix = f"diffusion_model.{names[module]}"
        tensors[f"{prefix}.lora_down.weight"] = layer.a.contiguous()
        tensors[f"{prefix}.lora_up.weight"] = layer.b.contiguous()
        tensors[f"{prefix}.alpha"] = torch.tensor(layer.scale * len(layer.a))
    save_file(tensors, path, metadata={"format": "pt"})


def write_merged(source: Path, out: Path, layers: Layers, dtype: torch.dtype | None = None) -> int:
    """Writes the weights of a safetensors file plus scale B A of each module, and returns the bytes of its tensors.

    source: one file of a model. out: the file to write. layers: by module; those of other files are passed over.
    dtype: of what is written of fp32 tensors; None: each keeps its own. Sums are formed in fp32 and rounded once.
    """
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    for name, tensor in tensors.items():
        layer = layers.get(name.removesuffix(".weight"))
        kept = dtype if dtype is not None and tensor.dtype == torch.float32 else tensor.dtype
        if layer is not None and name.endswith(".weight"):
            tensors[name] = (tensor.float() + layer.scale * (layer.b @ layer.a)).to(kept)
        else:
            tensors[name] = tensor.to(kept)
    save_file(tensors, out, metadata=metadata)
    return sum(tensor.nbytes for tensor in tensors.values())
