"""Key names of LoRA files for Wan that the original code, ComfyUI and kohya write, to diffusers' names."""

from pathlib import Path

from torch import Tensor


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
