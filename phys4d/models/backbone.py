"""The backbone of a world model: what every video diffusion transformer must offer to stages, adapters and heads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.models.flow import schedule, shifted
from phys4d.models.interface import Prediction

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup

Precision = Literal["fp32", "bf16"]
_LEAST_SIGMA = 0.02  # in training: below it velocity is nearly all rounding


class Backbone(nn.Module, ABC):
    """A diffusion transformer in the coordinates of rectified flow, conditioned on the first frame and text.

    A subclass says how its transformer is evaluated (`evaluate`) and what its output means (`interpret`), which modules
    are its blocks, and how attention is computed. A transformer trained under another process (DDPM, v-prediction)
    scales its input and output there: x_t = a data + s noise is rectified flow's (1 - sigma) data + sigma noise for
    sigma = s / (a + s), after division by a + s.

    Args:
        transformer: the module that is trained, adapted, sharded and saved, a diffusers model.
        taps: indices of the blocks whose output tokens are returned. ValueError for a block that does not exist.

    Attribute held: how many latent frames at the beginning the model was trained to be given clean, in their places
    among the noisy ones: 1, or 0 for a model that draws all frames. Held frames are in no loss, no log-probability and
    no KL. A model that reads the first frame besides, or in place of that, takes `first` in `evaluate`.

    Attribute precision: "bf16" computes the transformer's matrix products and attention in bfloat16, from trained
    weights in fp32, whose gradients are fp32, and frozen ones that `placement.place` holds in bf16. What conditions it
    on time (timesteps and their embedding, and the modulation where the model was published so) and the RoPE tables
    stay in fp32, and so do the returned tensors: a rounded timestep of 701.3 would be 700.
    """

    transformer: Any  # an nn.Module that diffusers saves (ModelMixin) and peft adapts (PeftAdapterMixin)
    lora_targets: ClassVar[tuple[str, ...]]  # linear modules that an adapter acts on, by the end of their path
    full_precision: ClassVar[tuple[str, ...]] = ()  # modules computed in fp32 whatever the precision, by their path
    held: int = 1
    patch: tuple[int, int, int]  # latent frames, rows and columns in one token
    width: int  # channels of a hidden token
    heads: int  # of its self-attention

    def __init__(self, transformer: nn.Module, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.transformer = transformer
        self.precision: Precision = "fp32"
        self._hidden: dict[int, Tensor] = {}
        self._tapped: set[int] = set()
        self.tap(taps)

    def tap(self, taps: tuple[int, ...]) -> None:
        """From here on the tokens of these blocks are returned. ValueError for a block that does not exist."""
        if bad := [k for k in taps if not 0 <= k < len(self.blocks)]:
            raise ValueError(f"taps {bad}: the transformer has blocks 0 to {len(self.blocks) - 1}")
        for k in set(taps) - self._tapped:
            self.blocks[k].register_forward_hook(self._keep(k))
        self.taps, self._tapped = taps, self._tapped | set(taps)

    def _keep(self, k: int) -> Any:
        def hook(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            tokens = output[0] if isinstance(output, tuple) else output
            self._hidden[k] = self.whole(k, tokens).float()

        return hook

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks in order: the units of sharding and activation checkpointing. The output of each is
        the video's hidden tokens [B, tokens, width] in (T', H', W') order, or a tuple with these in front."""

    @abstractmethod
    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        """The transformer's output, from the arguments of `forward`; called under autocast where the precision is
        "bf16". ValueError for a `first` of None where the model reads it."""

    def interpret(self, output: Tensor, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(velocity, clean), both [B, C, T', H', W'], from the output of `evaluate` in fp32; here that is the velocity.

        In frames that are held clean, velocity is 0 and clean is the given one.
        """
        velocity = torch.cat([torch.zeros_like(noisy[:, :, : self.held]), output[:, :, self.held :]], 2)
        return velocity, noisy - sigma.view(-1, 1, 1, 1, 1) * velocity

    def forward(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None = None) -> Prediction:
        """One evaluation.

        Args:
            noisy: [B, C, T', H', W'] fp32 latents at noise level sigma, the first `held` latent frames clean.
            sigma: [B] fp32 in (0, 1].
            text: [B, L, D] fp32 tokens of the text encoder.
            first: [B, C, F, H', W'] fp32, what the codec gives of the first frame (`interface.encode_first`): its clean
                latent, or all that a model reads beside the noisy ones; None for a model that reads nothing beside.
        """
        output, hidden = self._evaluated(noisy, sigma, text, first)
        velocity, clean = self.interpret(output, noisy, sigma)
        return Prediction(velocity, clean, hidden)

    def hidden(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tapped tokens [B, tokens, width] of an evaluation that is not interpreted; arguments of `forward`."""
        return self._evaluated(noisy, sigma, text, first)[1]

    def _evaluated(
        self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        with autocast(noisy.device.type, enabled=self.precision == "bf16"):
            output = self.evaluate(noisy, sigma, text, first).float()
        hidden = tuple(self._hidden[k] for k in self.taps)
        self._hidden.clear()
        return output, hidden

    def diffusion_loss(self, prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The loss that trains generation, a scalar: mean squared error of the predicted velocity to noise - clean over
        the latent frames that are not held; clean and noise are [B, C, T', H', W'], sigma [B] that of the prediction.
        """
        return F.mse_loss(prediction.velocity[:, :, self.held :], (noise - clean)[:, :, self.held :])

    def sigmas(self, steps: int, shift: float) -> Tensor:
        """Noise levels of sampling in so many steps, fp32 [steps + 1] on the CPU, from exactly 1 to 0, as this
        model was published (`flow.from_noise`); here `flow.schedule`."""
        return schedule(steps, shift)

    def training_sigma(self, u: Tensor, shift: float) -> Tensor:
        """Uniform u [B] -> noise levels [B] to train generation at: those that sampling visits, from 0.02."""
        return shifted(u, shift).clamp_min(_LEAST_SIGMA)

    def unconditional(self, text: Tensor) -> Tensor | None:
        """What stands for no caption in guidance, and where training drops captions: tokens [B, L, D] beside those of
        the captions, `text`; here None, for a model that was trained with the tokens of an empty caption there."""
        return None

    def whole(self, k: int, tokens: Tensor) -> Tensor:
        """The output of block k as taps need it: all tokens, where the block may hold a part of them."""
        return tokens

    @abstractmethod
    def use_attention(
        self, backend: str, group: "ProcessGroup | None" = None, context: Literal["auto", "ulysses", "ring"] = "auto"
    ) -> None:
        """From here on attention is computed by this backend of `phys4d.kernels.attention`: "auto" or a name.

        With a process group the tokens of a clip are divided over its ranks between the first and the last block, and
        exchanged as `context` says; every rank evaluates the same clips and gets the same prediction, and the sum over
        the ranks of all gradients is the gradient of the sum of their losses. ValueError where this backbone cannot.
        """

    @abstractmethod
    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, Any]:
        """Which backend computes each kind of attention for so many video and text tokens, and why; under "left", the
        modules that compute it by their own code, and why. ValueError where the backend asked for by name cannot."""


def autocast(device_type: str, *, enabled: bool) -> AbstractContextManager[Any]:
    """bf16 autocast on or off; without its cache, which would hold the gathered weights of all blocks at once."""
    if not enabled and not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def in_full_precision(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same, computed in the dtype of its inputs and weights even under autocast."""

    @wraps(forward)
    def without_autocast(timestep: Tensor, *inputs: Any, **options: Any) -> Any:
        with autocast(timestep.device.type, enabled=False):
            return forward(timestep, *inputs, **options)

    return without_autocast
