"""The table [model] of a run file."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from phys4d.engine.config import Config
from phys4d.engine.limits import LAYERS, WIDTH
from phys4d.engine.resume import FROM_HERE
from phys4d.kernels.attention.backends import BACKENDS
from phys4d.models.heads import HeadConfig
from phys4d.models.registry import MODELS

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(MODELS)]


class ModelConfig(Config):
    """What turns a video backbone into a world model.

    kind: the kind of backbone, a name in `phys4d.models.registry`. width: channels of a token, and layers: number of
    blocks, of a new model; not read where `init` names one. taps: indices of the blocks whose tokens the heads read.
    probe_sigma: noise level, between 0 and 1, at which depth and motion are read.
    sampling_steps: denoising steps; sampling_shift: how far training and sampling sigmas are moved towards noise (see
    `flow.shifted`). Left out, both are the model's own: 10 and 3.0 for tiny; for a released folder its pipeline's steps
    and the shift in its scheduler/. attention: the backend that computes attention in training and rollouts, a name
    that `phys4d.kernels.attention.explain` gives, or "auto", the fastest known for the shapes and the device.
    """

    kind: Kind = "tiny"
    width: int = Field(128, ge=32, le=WIDTH, multiple_of=32)
    layers: int = Field(4, ge=1, le=LAYERS)
    taps: tuple[Annotated[int, Field(ge=0)], ...] = Field((1, 3), min_length=1, max_length=LAYERS)
    heads: HeadConfig = HeadConfig()
    probe_sigma: float = Field(0.05, gt=0, lt=1)
    sampling_steps: int | None = Field(None, ge=1)
    sampling_shift: float | None = Field(None, gt=0)
    attention: Annotated[str, FROM_HERE] = "auto"

    @field_validator("attention")
    @classmethod
    def _known_backend(cls, name: str) -> str:
        known = ["auto", *(name for name, backend in BACKENDS.items() if backend.approximate is None)]
        if name not in known:
            raise ValueError(f"expected {', '.join(known)}")
        return name

    def resolved(self, steps: int, shift: float) -> "ResolvedConfig":
        """The same with what was left out filled in; attention "auto", since a model folder is for any machine."""
        return ResolvedConfig(
            **self.model_dump(exclude={"sampling_steps", "sampling_shift", "heads", "attention"}),
            heads=self.heads,
            sampling_steps=self.sampling_steps or steps,
            sampling_shift=self.sampling_shift or shift,
        )


class ResolvedConfig(ModelConfig):
    """The configuration of a model that exists: how it is trained and sampled is written down."""

    sampling_steps: int = Field(ge=1)
    sampling_shift: float = Field(gt=0)
