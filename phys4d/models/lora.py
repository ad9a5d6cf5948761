"""Adapters on the transformer, in peft's layout: one for `finetune`, one for `reinforce`, each on or off at will."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
WEIGHTS = "pytorch_lora_weights.safetensors"


def add_adapter(transformer: WanTransformer3DModel, name: str, rank: int, seed: int) -> None:
    """Adds a trainable LoRA (alpha = rank, B = 0, so that nothing changes yet) beside those there, all of them active.

    Everything else stops requiring gradients. ValueError where `name` is already there.
    """
    present = adapter_names(transformer)
    if name in present:
        raise ValueError(f"adapter {name!r} is already on this transformer, which has {list(present)}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is meant
        torch.manual_seed(seed)
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)), adapter_name=name)
    activate(transformer, (*present, name))
    for key, parameter in transformer.named_parameters():
        parameter.requires_grad_(f".{name}." in key)


def adapter_names(transformer: nn.Module) -> tuple[str, ...]:
    """Names of the adapters on a transformer, oldest first."""
    return tuple(getattr(transformer, "peft_config", {}))


def activate(transformer: nn.Module, names: tuple[str, ...]) -> None:
    """Makes exactly these adapters act; requires_grad is left as it is."""
    for layer in transformer.modules():
        if isinstance(layer, BaseTunerLayer):
            layer._active_adapter = list(names)


@contextmanager
def without(transformer: nn.Module, name: str) -> Iterator[None]:
    """Within it, all adapters but `name` act; nothing changes where `name` is absent."""
    names = adapter_names(transformer)
    activate(transformer, tuple(n for n in names if n != name))
    try:
        yield
    finally:
        activate(transformer, names)


def save_adapter(transformer: WanTransformer3DModel, name: str, folder: Path) -> None:
    """Writes folder/pytorch_lora_weights.safetensors, which diffusers' `load_lora_adapter` reads."""
    transformer.save_lora_adapter(folder, adapter_name=name, weight_name=WEIGHTS)


def load_adapter(transformer: WanTransformer3DModel, name: str, folder: Path) -> None:
    """Reads what `save_adapter` wrote, frozen, beside the adapters there. ValueError where the weights do not fit."""
    weights = load_file(folder / WEIGHTS)
    ranks = {tensor.shape[0] for key, tensor in weights.items() if "lora_A" in key}
    if len(ranks) != 1:
        raise ValueError(f"{folder / WEIGHTS}: expected a LoRA of one rank, found ranks {sorted(ranks)}")
    add_adapter(transformer, name, ranks.pop(), seed=0)
    here = get_peft_model_state_dict(transformer, adapter_name=name)
    for key, tensor in weights.items():
        if key in here and here[key].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, this transformer takes {list(here[key].shape)}"
            raise ValueError(f"{folder / WEIGHTS}: does not fit: {key} is {shapes}")
    result = set_peft_model_state_dict(transformer, weights, adapter_name=name)
    absent = [key for key in result.missing_keys if f".{name}." in key]
    if absent or result.unexpected_keys:
        fault = (absent + list(result.unexpected_keys))[0]
        raise ValueError(f"{folder / WEIGHTS}: does not fit this transformer, first at {fault}")
    transformer.requires_grad_(False)
