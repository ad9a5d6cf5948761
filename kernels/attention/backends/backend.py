"""What a backend of `attention` is, and the result of choosing one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import determinism


@dataclass(frozen=True)
class Backend:
    """An implementation of `attention`.

    Args:
        name: as users pass it.
        reason: why "auto" takes it, for `explain`.
        limits: why a call cannot be served, None if it can; determinism apart.
        run: computes out, and lse where the call asks for it.
        unmeasured: why "auto" does not take it, where nothing was measured, although it could serve; None if it does.
        varies: why, with deterministic algorithms on ("warn" or "required"), two runs may differ; None if they are
            bit-equal.
        approximate: why its error is not that of the dtype; such a backend serves only where it is asked for by name.
        dispatched: whether its products pass torch's dispatcher, where FLOP counters see them (`flops.py`).
    """

    name: str
    reason: str
    limits: Callable[[Call], str | None]
    run: Callable[[Call], tuple[Tensor, Tensor | None]]
    unmeasured: Callable[[Call], str | None] = lambda call: None
    varies: Callable[[Call], str | None] = lambda call: None
    approximate: str | None = None
    dispatched: bool = True

    def refusal(self, call: Call, *, by_name: bool = True) -> str | None:
        """Why the call cannot be served, None if it can.

        A backend whose results vary is refused where deterministic algorithms are required; where torch only warns, it
        is left out of "auto" (not `by_name`).
        """
        reason = self.limits(call)
        if not by_name and self.approximate is not None:
            return reason or self.approximate
        asked = determinism()
        if reason is not None or asked == "off" or (by_name and asked == "warn"):
            return reason
        reason = self.varies(call)
        return reason and f"{reason}, and deterministic algorithms are asked for"


@dataclass(frozen=True)
class BackendChoice:
    """The backend that serves a call, why, and why others do not.

    Attributes:
        backend: its name.
        reason: why it was taken.
        refused: for each backend that was tried before it, why it was not taken.
        measured: what to know of the measured table: that it has nothing for this call, or is of other versions.
        context: how the ranks of a process group work together; None without a group.
        fused_transform: whether norm and rotation of q and k are a part of the attention kernel, not a pass before it.
    """

    backend: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)
    measured: str | None = None
    context: str | None = None
    fused_transform: bool = False

    def __str__(self) -> str:
        others = "".join(f"; not {name}: {why}" for name, why in self.refused.items())
        ranks = f"{self.context}, each rank " if self.context else ""
        fused = "; norm and rotation inside its kernel" if self.fused_transform else ""
        measured = f"; {self.measured}" if self.measured else ""
        return f"{ranks}{self.backend}: {self.reason}{measured}{fused}{others}"
