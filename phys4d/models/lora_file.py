"""Files of LoRA weights, of any program: which module each tensor belongs to, and the scale alpha / rank of each.

Read are the key names of diffusers (`transformer.` or no prefix) and peft (`base_model.model.`), and those that the
kind of model converts to them (`ModelSpec.rename_lora`), with lora_A / lora_B or lora_down / lora_up. alpha comes from
`lora_adapter_metadata` in the file's header (diffusers), from adapter_config.json (peft) or from tensors named
`.alpha`; where none says it, alpha is the rank and the scale 1. What cannot be read with its whole effect is refused.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn

from phys4d.models.headers import read_header, read_json

DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
METADATA = "lora_adapter_metadata"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_KEY = re.compile(r"(.+)\.(?:(lora_A|lora_down|lora\.down)|(lora_B|lora_up|lora\.up))(?:\.default)?\.weight")
_PREFIXES = ("base_model.model.transformer.", "base_model.model.", "transformer.")
_EXPERT = "weights of a second expert: only models of one transformer are taken"
_REFUSED = {  # part of a key (regular expression): why
    r"^(base_model\.model\.)?transformer_2\.": _EXPERT,
    r"text_encoder|lora_te": "weights of a text encoder, which is not adapted here",
    r"dora_scale|lora_magnitude_vector": "a DoRA, which is not taken",
    r"\.diff(_b)?$": "differences of whole weights beside the LoRA, which are not taken",
    r"\.lora_B\.bias$": "biases in the LoRA, which are not taken",
    r"\.lokr_|\.hada_": "a LoKr or LoHa, which is not taken",
    r"modules_to_save": "whole modules beside the LoRA, which are not taken",
}
_WITHOUT = (
    "use_dora", "use_qalora", "lora_bias", "modules_to_save", "layer_replication", "trainable_token_indices",
    "target_parameters", "alora_invocation_tokens", "fan_in_fan_out",
)  # fmt: skip
_OF_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # they change the base's weights when they start


@dataclass(frozen=True)
class LoraLayer:
    """The LoRA of one linear module, whose output gains scale B A x.

    a: [rank, in]; b: [out, rank], fp32; keys: what A and B are called in the file.
    """

    a: Tensor
    b: Tensor
    scale: float
    keys: tuple[str, str]


Rename = Callable[[Path, dict[str, Tensor]], dict[str, Tensor]]


def read_lora(folder: Path, rename: Rename, *, weights: bool = True) -> tuple[Path, dict[str, LoraLayer]]:
    """The file of a folder, and its layers by the transformer's module.

    rename: see `ModelSpec.rename_lora`; weights: False gives tensors without memory.

    ValueError naming the file for one that holds something else than a LoRA of linear modules; UserError for one that
    is not whole.
    """
    path = folder / DIFFUSERS_WEIGHTS
    if not path.is_file() and (folder / PEFT_WEIGHTS).is_file():
        path = folder / PEFT_WEIGHTS
    header, metadata = read_header(path)
    for name, stored in header.items():
        if reason := next((why for part, why in _REFUSED.items() if re.search(part, name)), None):
            raise ValueError(f"{path}: {name}: {reason}")
        if stored.dtype not in _DTYPES:
            raise ValueError(f"{path}: {name} is {stored.dtype}: expected {', '.join(_DTYPES)}")
    with safe_open(path, "pt") as file:
        tensors = {
            name: file.get_tensor(name).float()
            if weights or name.endswith(".alpha")
            else torch.empty(stored.shape, device="meta")
            for name, stored in header.items()
        }
    settings = _settings(path, metadata)
    return path, _layers(path, rename(path, tensors), settings)


def _settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's configuration of the file, from its header or beside it; {} where there is none."""
    settings: dict[str, Any] = {}
    if path.name == PEFT_WEIGHTS:
        settings = read_json(path.with_name(PEFT_CONFIG))
    elif METADATA in metadata:
        settings = json.loads(metadata[METADATA])
        if second := next((key for key in settings if key.startswith("transformer_2.")), None):
            raise ValueError(f"{path}: {METADATA}: {second}: {_EXPERT}")
        settings = {key.removeprefix("transformer."): value for key, value in settings.items()}
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type: {kind}: only LORA is taken")
    for key in _WITHOUT:
        if settings.get(key):
            raise ValueError(f"{path}: {key}: {settings[key]}: is not taken")
    if settings.get("bias", "none") != "none":
        raise ValueError(f"{path}: bias: {settings['bias']}: trained biases are not taken")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OF_THE_BASE):
        raise ValueError(f"{path}: init_lora_weights: {start}: changes the base's weights: convert it to a plain LoRA")
    return settings


def _layers(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, LoraLayer]:
    halves: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        prefix = next((p for p in _PREFIXES if key.startswith(p)), "")
        name = key.removeprefix(prefix)
        if name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensor)
        elif match := _KEY.fullmatch(name):
            halves.setdefault(match[1], {})["a" if match[2] else "b"] = key
        else:
            raise ValueError(f"{path}: {key}: is no part of a LoRA")
    if not halves:
        raise ValueError(f"{path}: holds no LoRA weights")
    if orphan := next((module for module in alphas if module not in halves), None):
        raise ValueError(f"{path}: {orphan}.alpha: there are no weights of that module")
    layers = {}
    for module, keys in halves.items():
        if len(keys) < 2:
            raise ValueError(f"{path}: {module}: one of lora_A and lora_B is absent")
        a, b = tensors[keys["a"]], tensors[keys["b"]]
        scale = _scale(path, module, len(a), alphas.get(module), settings)
        layers[module] = LoraLayer(a, b, scale, (keys["a"], keys["b"]))
    return layers


def _scale(path: Path, module: str, rank: int, alpha: float | None, settings: Mapping[str, Any]) -> float:
    """alpha / rank of a module, or alpha / sqrt(rank) where the configuration asks for it (rsLoRA)."""
    if alpha is not None:
        return alpha / rank
    if "r" not in settings:
        return 1.0
    ranks, alphas = settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}
    configured = ranks.get(get_pattern_key(list(ranks), module), settings["r"])
    if configured != rank:
        raise ValueError(f"{path}: {module}: is of rank {rank}, its configuration says {configured}")
    alpha = alphas.get(get_pattern_key(list(alphas), module), settings.get("lora_alpha", 8))
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


def check_fits_transformer(path: Path, layers: Mapping[str, LoraLayer], transformer: nn.Module) -> None:
    """ValueError unless every layer is that of a linear module of the transformer, with its shape."""
    for module, layer in layers.items():
        try:
            linear = transformer.get_submodule(module)
        except AttributeError:
            raise ValueError(f"{path}: does not fit: {layer.keys[0]}: this transformer has no {module}") from None
        linear = getattr(linear, "base_layer", linear)
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"{path}: does not fit: {layer.keys[0]}: {module} is no linear module")
        rank = len(layer.a)
        for key, tensor, shape in (
            (layer.keys[0], layer.a, [rank, linear.in_features]),
            (layer.keys[1], layer.b, [linear.out_features, rank]),
        ):
            if list(tensor.shape) != shape:
                raise ValueError(f"{path}: does not fit: {key} is {list(tensor.shape)}, this transformer takes {shape}")
