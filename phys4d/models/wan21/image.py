"""The first frame as image to video reads it: CLIP tokens, and how they travel with latents in one tensor."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.models.headers import read_json
from phys4d.models.progress_bars import without_progress_bars


class ImageEncoder(nn.Module):
    """transformers' CLIPVisionModel, frozen, in fp32: the tokens of its last block but one, as diffusers' pipeline
    takes them. Its weights are read when it is first used, on the device that it was moved to.

    source: the folder of the published model, with image_encoder/ and image_processor/, or, for an encoder without
    values, the table of the first one's config.json.
    """

    def __init__(self, source: Path | dict[str, Any]) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig

        self.source = source
        table = source if isinstance(source, dict) else read_json(source / "image_encoder" / "config.json")
        config = CLIPVisionConfig.from_dict(table)
        self.side, self.width = config.image_size, config.hidden_size
        self.tokens = (config.image_size // config.patch_size) ** 2 + 1
        self.place: Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the module

    @property
    def model(self) -> Any:
        """The encoder with its weights, on this module's device."""
        if "model" not in self._modules:
            from transformers import CLIPVisionModel

            assert isinstance(self.source, Path), "no folder to read weights from"
            with without_progress_bars():
                model = CLIPVisionModel.from_pretrained(
                    self.source / "image_encoder", dtype=torch.float32, use_safetensors=True
                )
            self._modules["model"] = model.to(self.place.device).eval().requires_grad_(False)
        return self._modules["model"]

    def leave_out_values(self) -> None:
        """Builds the encoder of a table as modules are built around this call, such as without values."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        assert isinstance(self.source, dict), "a folder has values"
        self._modules["model"] = CLIPVisionModel(CLIPVisionConfig.from_dict(self.source)).eval().requires_grad_(False)

    def pixels(self, image: Tensor) -> Tensor:
        """Frames [B, 3, 1, H, W] in [-1, 1] -> [B, 3, side, side], resized, cropped and normalised by image_processor/,
        from whole levels of brightness, by PIL."""
        if isinstance(self.source, dict):
            return image.new_zeros(len(image), 3, self.side, self.side)
        from transformers import CLIPImageProcessorPil

        processor = CLIPImageProcessorPil.from_pretrained(self.source / "image_processor")
        levels = ((image[:, :, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return processor(list(levels.cpu().numpy()), return_tensors="pt").pixel_values.to(image)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """First frames [B, 3, 1, H, W] in [-1, 1] -> [B, tokens, width] fp32."""
        return self.model(self.pixels(image), output_hidden_states=True).hidden_states[-2]


def packed_frames(tokens: tuple[int, int], latents: tuple[int, int, int, int]) -> int:
    """How many latent frames hold the numbers of `tokens` (count, width), for latents [C, T', H', W']."""
    channels, _, height, width = latents
    return -(-tokens[0] * tokens[1] // (channels * height * width))


def packed(latents: Tensor, tokens: Tensor) -> Tensor:
    """Latents [B, C, T', H', W'], and tokens [B, N, D] number by number in more latent frames behind them."""
    batch, channels, _, height, width = latents.shape
    frames = packed_frames((tokens.shape[1], tokens.shape[2]), tuple(latents.shape[1:]))  # type: ignore[arg-type]
    numbers = tokens.flatten(1)
    numbers = F.pad(numbers, (0, frames * channels * height * width - numbers.shape[1]))
    return torch.cat([latents, numbers.view(batch, frames, channels, height, width).transpose(1, 2)], 2)


def unpacked(both: Tensor, frames: int, tokens: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The `frames` latent frames and the `tokens` (count, width) that `packed` joined."""
    numbers = both[:, :, frames:].transpose(1, 2).flatten(1)[:, : tokens[0] * tokens[1]]
    return both[:, :, :frames], numbers.unflatten(1, tokens)
