"""Key names of LoRA files for Wan that the original code, ComfyUI and kohya write, to diffusers' names."""

import re
from pathlib import Path

from torch import Tensor

_IN_A_BLOCK = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip


def original_name(module: str) -> str:
    """What the original code and ComfyUI call a linear module of a block, from diffusers' name for it.

    Raises ValueError for a module outside of the blocks: the readers of such files give it no scale.
    """
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
    if match is None or match[2] not in _IN_A_BLOCK:
        raise ValueError(f"{module} has no name in this layout, which takes the linear modules of blocks")
    return f"blocks.{match[1]}.{_IN_A_BLOCK[match[2]]}"


def diffusers_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under diffusers' module names; ValueError naming the file where they are not of Wan.

    The converters are those of diffusers; they multiply alpha into A and B.
    """
    from diffusers.loaders import lora_conversion_utils as converters

    convert = None
    if any(key.startswith("diffusion_model.") for key in tensors):
        convert = converters._convert_non_diffusers_wan_lora_to_diffusers
    elif any(key.startswith("lora_unet_") for key in tensors):
        convert = converters._convert_musubi_wan_lora_to_diffusers
    if convert is None:
        return tensors
    try:
        return convert(tensors)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: its names are not those of a LoRA of Wan ({' '.join(str(error).split())})") from None
