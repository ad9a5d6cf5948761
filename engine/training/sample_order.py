"""What the training loop needs of the order of samples: to save where it stands, and to go on from there."""

from collections.abc import Hashable, Mapping
from typing import Protocol

from torch import Tensor


class SampleOrder(Protocol):
    """The order in which the steps of a stage take samples; equal on all ranks."""

    def state(self, step: int) -> dict[str, Tensor]:
        """Where the order stands before a step: int64 tensors on the CPU by name, of the same shapes for every step.

        step: number of the step, from 0; one of the latest steps, or the next one.
        """
        ...

    def samples(self, step: int) -> int:
        """Number of samples of all steps before `step`; arguments as of `state`."""
        ...

    def resume(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Goes on from `step` with a state of an earlier session, of other batch sizes possibly. ValueError for one
        that is of other samples."""
        ...

    def kind(self, step: int) -> Hashable:
        """What steps of equal shapes, and so of equally many FLOPs, have in common."""
        ...


class Uncounted:
    """Steps that all take equally many samples of one shape, in an order that is a function of the step.

    each: samples of a step over all ranks.
    """

    def __init__(self, each: int = 1) -> None:
        self._each = each

    def state(self, step: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def samples(self, step: int) -> int:
        """As many for each step."""
        return step * self._each

    def resume(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Nothing to go on from."""

    def kind(self, step: int) -> Hashable:
        """One for all."""
        return ""
