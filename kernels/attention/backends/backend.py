"""What a backend of `attention` is, and how a choice of one is told."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from phys4d.kernels.attention.call import Call


@dataclass(frozen=True)
class Backend:
    """Somebody who computes calls.

    `refusal` says why a call cannot be served, None if it can; `reluctance` why "auto" passes it over although it
    could. `run` gives out, and lse where the call asks for it.
    """

    name: str
    reason: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], tuple[Tensor, Tensor | None]]
    reluctance: Callable[[Call], str | None] = lambda call: None


@dataclass(frozen=True)
class Choice:
    """Who serves a call, why, and why the others were passed over; and how the ranks of a group work together."""

    backend: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)
    context: str | None = None
    in_loads: bool = False  # norm and rotation are a part of the kernel, not a pass of their own

    def __str__(self) -> str:
        others = "".join(f"; not {name}: {why}" for name, why in self.refused.items())
        together = f"{self.context}, each rank " if self.context else ""
        loads = "; norms and rotates in its loads" if self.in_loads else ""
        return f"{together}{self.backend}: {self.reason}{loads}{others}"
