"""The backbone on diffusers' WanTransformer3DModel: Wan2.2-TI2V as released."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from phys4d.kernels.attention import explain
from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.integrate.diffusers import accelerate, gathered
from phys4d.models.backbone import Backbone, in_full_precision
from phys4d.models.wan.schedule import SCHEDULER, published_sigmas

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup

# Under autocast the norms of queries and keys keep their fp32 weights, as all trained weights do; torch then takes its
# unfused kernel, which is right, and says so.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight: input dtype = c10::BFloat16, weight dtype")


class WanBackbone(Backbone):
    """Evaluates a Wan transformer with one timestep per frame, zero on the clean first latent frame (Wan2.2-TI2V).

    Attention, norm and rotation of queries and keys, and gate, residual, norm and modulation between the layers are
    computed by `phys4d.kernels`; time is embedded once for each frame.

    transformer, taps: as of `Backbone`. scheduler: the table of the published scheduler_config.json, whose noise levels
    sampling visits.
    """

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    full_precision = ("condition_embedder",)

    def __init__(
        self, transformer: WanTransformer3DModel, taps: tuple[int, ...], scheduler: Mapping[str, Any] = SCHEDULER
    ) -> None:
        super().__init__(transformer, taps)
        self.scheduler = scheduler
        config = transformer.config
        self.patch = tuple(config.patch_size)
        self.heads = config.num_attention_heads
        self.width = self.heads * config.attention_head_dim
        embedder = transformer.condition_embedder
        embedder.forward = in_full_precision(embedder.forward)
        self.accelerated = accelerate(transformer, timestep_per="frame")
        self._group: ProcessGroup | None = None
        self._grid: tuple[int, int, int]  # of the tokens in the current evaluation

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.blocks

    def token_timesteps(self, shape: torch.Size, sigma: Tensor) -> Tensor:
        """[B, tokens] in 0..1000, fp32: 1000 sigma, and 0 for the tokens of the first latent frame."""
        t, h, w = self._grid = tuple(n // p for n, p in zip(shape[2:], self.patch, strict=True))  # type: ignore
        steps = (1000 * sigma.float())[:, None].repeat(1, t * h * w)
        steps[:, : h * w] = 0
        return steps

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        return self.transformer(noisy, self.token_timesteps(noisy.shape, sigma), text, return_dict=False)[0]

    def sigmas(self, steps: int, shift: float) -> Tensor:
        return published_sigmas(self.scheduler, steps, shift)

    def use_attention(
        self, backend: str, group: "ProcessGroup | None" = None, context: Literal["auto", "ulysses", "ring"] = "auto"
    ) -> None:
        self.accelerated.undo()
        self.accelerated = accelerate(
            self.transformer, backend=backend, timestep_per="frame", group=group, context=context
        )
        self._group = group

    def whole(self, k: int, tokens: Tensor) -> Tensor:
        if self._group is None or k == len(self.blocks) - 1:
            return tokens
        return gathered(tokens, Parts.of(self._group, self._grid, None))

    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, Any]:
        config = self.transformer.config
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        head = torch.empty(config.attention_head_dim, dtype=dtype, device=device, requires_grad=True)
        q, text = (head.expand(1, n, self.heads, -1) for n in (tokens, text_tokens))
        backend = self.accelerated.backend
        chosen = {name: str(explain(q, k, k, backend=backend)) for name, k in (("self", q), ("cross", text))}
        return chosen | {"left": self.accelerated.left}
