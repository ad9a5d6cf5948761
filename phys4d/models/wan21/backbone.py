"""The backbone of Wan2.1: one timestep for each clip; image to video reads the first frame beside the latents."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from phys4d.kernels.attention import explain
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.wan21.image import unpacked
from phys4d.models.wan21.schedule import SCHEDULER


class Wan21Backbone(WanBackbone):
    """Evaluates a Wan transformer with one timestep for each clip; it draws all latent frames.

    Image to video reads, behind the channels of the noisy latents, a mask that is 1 on the first latent frame and the
    latents of the image with grey frames behind it, and CLIP tokens in the cross-attention (diffusers,
    pipelines/wan/pipeline_wan_i2v.py).

    transformer, taps, scheduler: as of `WanBackbone`. image_tokens: CLIP tokens of an image, 0 for text to video.
    """

    held = 0

    def __init__(
        self, transformer: WanTransformer3DModel, taps: tuple[int, ...], scheduler: Mapping[str, Any] = SCHEDULER,
        image_tokens: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(transformer, taps, scheduler)
        self.image_tokens = image_tokens

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        config = self.transformer.config
        t, h, w = (n // p for n, p in zip(noisy.shape[2:], self.patch, strict=True))
        self._grid = (t, h, w)
        x, image = noisy, None
        if self.image_tokens:
            if first is None:
                raise ValueError("Wan2.1-I2V is conditioned on the first frame: give `first`")
            latents, image = unpacked(first, noisy.shape[2], (self.image_tokens, config.image_dim))
            marks = config.in_channels - 2 * config.out_channels
            mask = noisy.new_zeros(len(noisy), marks, *noisy.shape[2:])
            mask[:, :, 0] = 1
            x = torch.cat([noisy, mask, latents], 1)
        return self.transformer(x, 1000 * sigma.float(), text, image, return_dict=False)[0]

    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, Any]:
        found = super().explain_attention(tokens, text_tokens, device)
        if not self.image_tokens:
            return found
        config = self.transformer.config
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        head = torch.empty(config.attention_head_dim, dtype=dtype, device=device, requires_grad=True)
        q, image = (head.expand(1, n, config.num_attention_heads, -1) for n in (tokens, self.image_tokens))
        return {"image": str(explain(q, image, image, backend=self.accelerated.backend)), **found}
