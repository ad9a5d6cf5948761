"""What a backend of `attention` is, and the result of choosing one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from phys4d.kernels.attention.call import Call


@dataclass(frozen=True)
class Backend:
    """An implementation of `attention`.

    Args:
        name: as users pass it.
        reason: why "auto" takes it, for `explain`.
        refusal: why a call cannot be served, None if it can.
        run: computes out, and lse where the call asks for it.
        auto_refusal: why "auto" does not take it although it could serve the call, None if it does.
    """

    name: str
    reason: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], tuple[Tensor, Tensor | None]]
    auto_refusal: Callable[[Call], str | None] = lambda call: None


@dataclass(frozen=True)
class BackendChoice:
    """The backend that serves a call, why, and why others do not.

    Attributes:
        backend: its name.
        reason: why it was taken.
        refused: for each backend that was tried before it, why it was not taken.
        context: how the ranks of a process group work together; None without a group.
        fused_transform: whether norm and rotation of q and k are a part of the attention kernel, not a pass before it.
    """

    backend: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)
    context: str | None = None
    fused_transform: bool = False

    def __str__(self) -> str:
        others = "".join(f"; not {name}: {why}" for name, why in self.refused.items())
        ranks = f"{self.context}, each rank " if self.context else ""
        fused = "; norm and rotation inside its kernel" if self.fused_transform else ""
        return f"{ranks}{self.backend}: {self.reason}{fused}{others}"
