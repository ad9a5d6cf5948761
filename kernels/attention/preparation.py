"""Norm and rotation of queries and keys as a part of attention, in the loads of kernels that read each token once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phys4d.kernels.attention.patterns import Grid
from phys4d.kernels.elementwise import Rope
from phys4d.kernels.elementwise.qk_norm_rope import rope_of
from phys4d.kernels.elementwise.reference import norm_rope_backward_reference, norm_rope_reference

Flat = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, list[Tensor], str, float, str]

NONE: Flat = (None, None, None, None, [], "", 0.0, "")  # an operator's arguments where nothing is to be done


@dataclass(frozen=True)
class Preparation:
    """What an operator is told of norm and rotation.

    Weights and biases, of both or of neither, are None without a norm. tables: of the rotation, empty without. norm:
    "", "rms" or "layer", per head. layout: of the rotation.
    """

    q_weight: Tensor | None
    k_weight: Tensor | None
    q_bias: Tensor | None
    k_bias: Tensor | None
    tables: list[Tensor]
    norm: str
    epsilon: float
    layout: str

    @property
    def weights(self) -> list[Tensor]:
        """Those of queries and of keys, then the biases of both, as far as they are there."""
        return [t for t in (self.q_weight, self.k_weight, self.q_bias, self.k_bias) if t is not None]

    def applied(self, q: Tensor, k: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor]:
        """q and k [B, S, heads, D] normed and rotated, in plain torch; a rotation needs the grid."""
        if not self.norm and not self.tables:
            return q, k
        return self._prepared(q, 0, grid or (1, 1, 1)), self._prepared(k, 1, grid or (1, 1, 1))

    def gradients(
        self, q: Tensor, k: Tensor, dq: Tensor, dk: Tensor, grid: Grid | None, weight_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and, float32 [2 or 4, D] as `weights` are, of the weights, from those of the prepared."""
        found = [
            norm_rope_backward_reference(
                x, dx, *self._weight_and_bias(place), self.norm, self.epsilon, self._rope(), grid or (1, 1, 1), 0
            )
            for place, x, dx in ((0, q, dq), (1, k, dk))
        ]
        parts = [sums[part] for part in (1, 2) for sums in found]
        sums = [part.float() for part in parts if part is not None] if weight_gradient else []
        return found[0][0], found[1][0], torch.stack(sums) if sums else dq.new_empty((0, 0), dtype=torch.float32)

    def _rope(self) -> Rope | None:
        return rope_of(self.layout, self.tables)

    def _weight_and_bias(self, place: int) -> tuple[Tensor | None, Tensor | None]:
        return (self.k_weight, self.k_bias) if place else (self.q_weight, self.q_bias)

    def _prepared(self, x: Tensor, place: int, grid: Grid) -> Tensor:
        return norm_rope_reference(x, *self._weight_and_bias(place), self.norm, self.epsilon, self._rope(), grid, 0)
