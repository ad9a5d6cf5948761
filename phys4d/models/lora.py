"""Adapters on the transformer, by peft: SUPERVISED and POLICY, each on or off at will."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer as PeftLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from phys4d.models.initial import draw_uniform
from phys4d.models.lora_file import (
    DIFFUSERS_WEIGHTS,
    METADATA,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    LoraLayer,
    Rename,
    check_fits_transformer,
    read_lora,
)

Transformer = Any  # an nn.Module with diffusers' PeftAdapterMixin
SUPERVISED = "finetune"  # name of the adapter trained on simulator truth, together with the heads
POLICY = "reinforce"  # name of the adapter trained on rewards; off while depth and motion are read


def add_adapter(
    transformer: Transformer, name: str, rank: int, seed: int, targets: Sequence[str], alpha: float | None = None
) -> None:
    """Adds a trainable LoRA (B = 0, so that nothing changes yet) beside those there, all of them active.

    transformer: it is changed in place. targets: the linear modules that the LoRA acts on, by the ends of their paths
    (`Backbone.lora_targets`). alpha: B A counts alpha / rank times; None: once.

    A is drawn as peft draws it, uniform within 1 / sqrt(inputs), from noise keyed by (seed, "lora", name, module): two
    adapters differ, and ranks agree. Everything else stops requiring gradients. ValueError where `name` is there.
    """
    alpha = _whole(rank if alpha is None else alpha)
    _inject(transformer, name, LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)))  # type: ignore[arg-type]
    for module, layer in _layers_of(transformer, name):
        a = layer.lora_A[name].weight
        nn.init.zeros_(layer.lora_B[name].weight)
        draw_uniform(a, 1 / math.sqrt(a.shape[1]), seed, "lora", name, f"{module}.lora_A.weight")
    for key, parameter in transformer.named_parameters():
        parameter.requires_grad_(f".{name}." in key)


def _inject(transformer: Transformer, name: str, config: LoraConfig) -> None:
    present = adapter_names(transformer)
    if name in present:
        raise ValueError(f"adapter {name!r} is already on this transformer, which has {list(present)}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is meant
        transformer.add_adapter(config, adapter_name=name)
    for _, layer in _layers_of(transformer, name):
        layer.cast_input_dtype_enabled = False  # autocast rounds inputs; peft would first widen them to fp32
        for part in (layer.lora_A[name], layer.lora_B[name]):
            if part.weight.is_meta:  # peft puts adapters on the device of the weights that they adapt
                part.to_empty(device="cpu")
    activate(transformer, (*present, name))


def _layers_of(transformer: nn.Module, name: str) -> Iterator[tuple[str, PeftLayer]]:
    """Modules that an adapter acts on, by their path in the transformer."""
    for path, layer in transformer.named_modules():
        if isinstance(layer, PeftLayer) and name in layer.lora_A:
            yield path, layer


def adapter_names(transformer: nn.Module) -> tuple[str, ...]:
    """Names of the adapters on a transformer, oldest first."""
    return tuple(getattr(transformer, "peft_config", {}))


def active_names(transformer: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that act."""
    layers = (layer for layer in transformer.modules() if isinstance(layer, BaseTunerLayer))
    return tuple(next((layer.active_adapters for layer in layers), ()))


def activate(transformer: nn.Module, names: tuple[str, ...]) -> None:
    """Makes exactly these adapters act; requires_grad is left as it is."""
    for layer in transformer.modules():
        if isinstance(layer, BaseTunerLayer):
            layer._active_adapter = list(names)


@contextmanager
def without(transformer: nn.Module, name: str) -> Iterator[None]:
    """Within it, `name` does not act, and those that act beside it do; behind it, those act that did before."""
    names = active_names(transformer)
    activate(transformer, tuple(n for n in names if n != name))
    try:
        yield
    finally:
        activate(transformer, names)


def save_adapter(
    transformer: Transformer, name: str, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Writes a LoRA for a diffusers pipeline's `load_lora_weights(folder)` and for `PeftModel.from_pretrained`.

    The weights are written twice, since the key names that one of them reads are ignored by the other:
    pytorch_lora_weights.safetensors (`transformer.`, configuration in its header) and adapter_model.safetensors
    (`base_model.model.`, configuration in adapter_config.json).

    transformer: may be sharded. name: of the adapter. folder: is made. weights: whole, by the names of its parameters,
    of which those of the adapter are taken. Default: its own, where it is not sharded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = get_peft_model_state_dict(transformer, None if weights is None else dict(weights), name)
    weights = {key: tensor.contiguous() for key, tensor in own.items()}
    config = {key: _plain(value) for key, value in transformer.peft_config[name].to_dict().items()}
    config |= {"base_model_name_or_path": None, "inference_mode": True}
    prefixed = json.dumps({f"transformer.{key}": value for key, value in config.items()}, indent=2, sort_keys=True)
    save_file(
        {f"transformer.{key}": tensor for key, tensor in weights.items()},
        folder / DIFFUSERS_WEIGHTS,
        metadata={"format": "pt", METADATA: prefixed},
    )
    save_file(
        {f"base_model.model.{key}": tensor for key, tensor in weights.items()},
        folder / PEFT_WEIGHTS,
        metadata={"format": "pt"},
    )
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """A value of a peft configuration as JSON takes it, in an order that does not change from run to run."""
    return sorted(value) if isinstance(value, set) else value


def load_adapter(transformer: Transformer, name: str, folder: Path, rename: Rename) -> None:
    """Reads a LoRA that `save_adapter` or another program wrote (see `lora_file`), frozen, beside the adapters there.

    Rank and scale are those of each module. ValueError where the weights in `folder` do not fit the transformer, or
    the adapter `name` is there already; rename as in `read_lora`.
    """
    path, layers = read_lora(folder, rename)
    check_fits_transformer(path, layers, transformer)
    attach(transformer, name, layers)


def attach(transformer: Transformer, name: str, layers: Mapping[str, LoraLayer]) -> None:
    """Puts a LoRA beside the adapters there, frozen, with rank and scale of each module.

    transformer: possibly with its own weights on meta. name: of the adapter. layers: by module, which fit.
    """
    ranks = {module: len(layer.a) for module, layer in layers.items()}
    alphas = {module: layer.scale * ranks[module] for module, layer in layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = LoraConfig(
        r=rank,
        lora_alpha=_whole(alpha),
        rank_pattern={f"^{module}": r for module, r in ranks.items() if r != rank},
        alpha_pattern={f"^{module}": _whole(a) for module, a in alphas.items() if a != alpha},
        target_modules=sorted(layers),
    )
    _inject(transformer, name, config)
    with torch.no_grad():
        for module, layer in _layers_of(transformer, name):
            layer.lora_A[name].weight.copy_(layers[module].a)
            layer.lora_B[name].weight.copy_(layers[module].b)
    transformer.requires_grad_(False)


def _whole(alpha: float) -> float:
    """16 rather than 16.0, as peft writes it."""
    return int(alpha) if float(alpha).is_integer() else alpha
