"""The backbone on diffusers' CogVideoXTransformer3DModel: CogVideoX-5B and CogVideoX-5B-I2V as released."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from phys4d.kernels.attention import explain
from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.integrate.diffusers import accelerate, gathered
from phys4d.models.backbone import Backbone, in_full_precision
from phys4d.models.cogvideox.process import Process, scale, velocity_of
from phys4d.models.interface import Prediction

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup


class CogVideoXBackbone(Backbone):
    """Evaluates a CogVideoX transformer of the first generation (patches within one latent frame).

    It draws all latent frames. One with twice as many input as output channels (I2V) reads the latent of the first
    frame beside the noisy ones: behind their channels, on the first latent frame, zeros on the others.

    Joint attention of text and video with norm and rotation, and gate, residual, norm and modulation between the layers
    are computed by `phys4d.kernels`. Time is embedded in fp32; the modulation is computed as all linear layers are,
    since CogVideoX was trained in bf16.

    transformer, taps: as of `Backbone`. process: its noise levels. image_scale: factor from the codec's latents to
    those that I2V reads (`CogVideoXCodec.image_scale`).
    """

    held = 0
    # As of diffusers' examples/cogvideo/train_cogvideox_lora.py.
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    full_precision = ("time_embedding",)

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, taps: tuple[int, ...], process: Process | None = None,
        image_scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(transformer, taps)
        config = transformer.config
        self.patch = (1, config.patch_size, config.patch_size)
        self.heads = config.num_attention_heads
        self.width = self.heads * config.attention_head_dim
        self.reads_image = config.in_channels == 2 * config.out_channels
        self.process, self.image_scale = process or Process(), image_scale
        transformer.time_embedding.forward = in_full_precision(transformer.time_embedding.forward)
        self.accelerated = accelerate(transformer)
        self._group: ProcessGroup | None = None
        self._tokens = 0, 0  # of video and text in the current evaluation
        self._rotary: dict[Any, tuple[Tensor, Tensor]] = {}  # of the latest size

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.transformer_blocks

    def rotary(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [T' h w, channels of a head] for latents of this shape, fp32; None for a model without.

        Frames count from 0. Rows and columns lie, with the clip's aspect, in the middle of the grid that the model was
        trained at (60 x 90 latents): diffusers, pipelines/cogvideo/pipeline_cogvideox.py.
        """
        config, key = self.transformer.config, (shape[2:], device)
        if not config.use_rotary_positional_embeddings:
            return None
        if key not in self._rotary:
            from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

            side = config.patch_size
            frames, rows, columns = shape[2], shape[3] // side, shape[4] // side
            crop = get_resize_crop_region_for_grid(
                (rows, columns), config.sample_width // side, config.sample_height // side
            )
            tables = get_3d_rotary_pos_embed(
                config.attention_head_dim, crop, (rows, columns), frames, device=device
            )
            self._rotary = {key: tables}
        return self._rotary[key]

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        x = noisy / scale(sigma)
        if self.reads_image:
            if first is None:
                raise ValueError("CogVideoX-5B-I2V is conditioned on the latent of the first frame: give `first`")
            image = torch.zeros_like(noisy)
            image[:, :, :1] = self.image_scale * first
            x = torch.cat([x, image], 1)
        self._tokens = math.prod(n // p for n, p in zip(noisy.shape[2:], self.patch, strict=True)), text.shape[1]
        output = self.transformer(
            x.transpose(1, 2), text, self.process.timestep(sigma),
            image_rotary_emb=self.rotary(noisy.shape, noisy.device), return_dict=False,
        )[0]  # fmt: skip
        return output.transpose(1, 2)

    def interpret(self, output: Tensor, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        velocity = velocity_of(output, noisy, sigma)
        return velocity, noisy - sigma.view(-1, 1, 1, 1, 1) * velocity

    def diffusion_loss(self, prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mean squared error of v, as CogVideoX is trained: its error of data weighed by 1 / (1 - a^2) (diffusers,
        examples/cogvideo/train_cogvideox_lora.py). The error of velocity is that of v times a + s = 1 / r."""
        return (scale(sigma) * (prediction.velocity - (noise - clean))).square().mean()

    def sigmas(self, steps: int, shift: float) -> Tensor:
        """Of the trailing timesteps, as of diffusers' CogVideoXDDIMScheduler and CogVideoXDPMScheduler, whose
        `snr_shift_scale` is the shift."""
        return self.process.sigmas(steps, shift)

    def training_sigma(self, u: Tensor, shift: float) -> Tensor:
        """Of the 1000 timesteps, uniformly, as it was trained."""
        return self.process.training_sigma(u, shift)

    def use_attention(
        self, backend: str, group: "ProcessGroup | None" = None, context: Literal["auto", "ulysses", "ring"] = "auto"
    ) -> None:
        self.accelerated.undo()
        self.accelerated = accelerate(self.transformer, backend=backend, group=group, context=context)
        self._group = group

    def whole(self, k: int, tokens: Tensor) -> Tensor:
        if self._group is None or k == len(self.blocks) - 1:
            return tokens
        video, text = self._tokens
        return gathered(tokens, Parts.of(self._group, (video, 1, 1), (text, "first")))[:, text:]

    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, Any]:
        config = self.transformer.config
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        head = torch.empty(config.attention_head_dim, dtype=dtype, device=device, requires_grad=True)
        q = head.expand(1, tokens + text_tokens, self.heads, -1)
        backend = self.accelerated.backend
        return {"joint": str(explain(q, q, q, backend=backend)), "left": self.accelerated.left}
