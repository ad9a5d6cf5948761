"""The backbone's own weights: the dtype in which frozen ones are held, and reading each rank's part of them from files.

No process holds more than its part of the weights and that of one tensor on its way from the file. The model is built
with its parameters on torch's meta device, adapted, sharded, and then filled.
"""

import os
from collections.abc import Collection
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from phys4d.engine.distributed.collectives import local
from phys4d.engine.distributed.sharding import own_elements
from phys4d.engine.errors import UserError
from phys4d.models.diffusers_folder import weights_name
from phys4d.models.headers import Stored, read_weights

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

without_weights = init_empty_weights
"""Context in which modules are built with parameters on meta, without memory, and with real buffers (RoPE tables)."""


def hold_frozen_in_bf16(transformer: nn.Module, full_precision: Collection[str]) -> None:
    """Holds the frozen weights of linear layers in bf16; every other parameter stays in fp32.

    Under bf16 autocast the results are the same bits, since it would round these weights at each use; it would keep a
    rounded copy of each for the backward pass, too.

    transformer: on any device, or on meta. full_precision: paths of its submodules that are computed without autocast
    (the embedding of timesteps), whose weights stay as they are.
    """
    for path, module in transformer.named_modules():
        outside = any(path == name or path.startswith(f"{name}.") for name in full_precision)
        if isinstance(module, nn.Linear) and not outside:
            frozen = not any(parameter.requires_grad for parameter in module.parameters())
            if frozen:
                module.to(torch.bfloat16)


def autocast_acts(device: torch.device) -> bool:
    """Whether bf16 autocast lowers products on this device; a type of device may have no rules for it."""
    with torch.autocast(device.type, torch.bfloat16):
        product = nn.functional.linear(torch.zeros(1, 1, device=device), torch.zeros(1, 1, device=device))
    return product.dtype == torch.bfloat16


def absent_weights(module: nn.Module) -> list[str]:
    """Names of the parameters on meta, which hold no values, and beside such of the buffers that are stored with them:
    those have the values that their class computes, and the stored ones may have been learned."""
    absent = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    parameters = dict(module.named_parameters())
    return absent and [*absent, *(name for name in module.state_dict() if name not in parameters)]


def read_own_parts(module: nn.Module, names: Collection[str], folder: Path) -> None:
    """Fills parameters of a module with this rank's part of the tensors in a diffusers folder, in their own dtype; its
    buffers with the whole tensors.

    names: of parameters and buffers; the tensor has the same name, without the "base_layer" that peft puts in. folder:
    holds diffusion_pytorch_model.safetensors or model.safetensors, or shards and their index. UserError if a file
    cannot be read.
    """
    stored, files = read_weights(folder, weights_name(folder), "weights in the diffusers layout")
    parameters = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name in sorted(names, key=lambda name: (files[_stored_name(name)], stored[_stored_name(name)].begin)):
            key = _stored_name(name)
            held = local(parameters[name])
            values = _read_elements(files[key], stored[key], own_elements(parameters[name]))
            held.copy_(values.view(held.shape))


def _stored_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _read_elements(path: Path, tensor: Stored, own: slice) -> Tensor:
    """Elements of a stored tensor, read without mapping the file, whose pages would count as this process's memory."""
    values = torch.empty(own.stop - own.start, dtype=_DTYPES[tensor.dtype])
    if not values.numel():
        return values
    wanted = memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]
    offset, done = tensor.begin + own.start * values.itemsize, 0
    try:
        with open(path, "rb", buffering=0) as file:
            while done < len(wanted):
                count = os.preadv(file.fileno(), [wanted[done:]], offset + done)
                if count == 0:
                    raise UserError(f"{path}: ends within its tensors: download it again")
                done += count
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): copy or download it again") from None
    return values
