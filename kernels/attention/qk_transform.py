"""Norm and rotation of queries and keys as a part of attention, in kernels that load each token once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phys4d.kernels.attention.patterns import Grid
from phys4d.kernels.elementwise import Rope
from phys4d.kernels.elementwise.norm_rope_ops import rope_of, tables_of
from phys4d.kernels.elementwise.norm_rope_reference import norm_rope_backward_reference, norm_rope_reference

Optional = Tensor | None
FlatTransform = tuple[Optional, Optional, Optional, Optional, Optional, Optional, Optional, str, float, str]

NO_TRANSFORM: FlatTransform = (None,) * 7 + ("", 0.0, "")  # the operator's arguments for neither


@dataclass(frozen=True)
class QKTransform:
    """The norm per head and the rotation that an attention operator applies to queries and keys, as flat arguments.

    Args:
        q_weight, k_weight: [D] each, None without a norm.
        q_bias, k_bias: [D], both or neither.
        time, height, width: tables of the rotation, as in `Rope`; all three or none.
        norm: "", "rms" or "layer".
        epsilon: of the norm.
        layout: of the rotation, as in `Rope`.
    """

    q_weight: Tensor | None
    k_weight: Tensor | None
    q_bias: Tensor | None
    k_bias: Tensor | None
    time: Tensor | None
    height: Tensor | None
    width: Tensor | None
    norm: str
    epsilon: float
    layout: str

    @property
    def weights(self) -> list[Tensor]:
        """The weights of queries and of keys, then the biases of both, those that exist."""
        return [t for t in (self.q_weight, self.k_weight, self.q_bias, self.k_bias) if t is not None]

    @property
    def tables(self) -> list[Tensor]:
        """Of the rotation: three, or none."""
        return tables_of(self.time, self.height, self.width)

    def apply(self, q: Tensor, k: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor]:
        """q and k [B, S, heads, D] normed and rotated, in plain torch; a rotation needs the grid."""
        if not self.norm and not self.tables:
            return q, k
        found = [
            norm_rope_reference(x, weight, bias, self.norm, self.epsilon, self._rope(), grid or (1, 1, 1), 0)
            for x, weight, bias in ((q, self.q_weight, self.q_bias), (k, self.k_weight, self.k_bias))
        ]
        return found[0], found[1]

    def gradients(
        self, q: Tensor, k: Tensor, dq: Tensor, dk: Tensor, grid: Grid | None, weight_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q and k, and of the weights, float32 [2 or 4, D] in the order of `weights`.

        dq, dk: gradients of what `apply` gives for q and k.
        """
        found = [
            norm_rope_backward_reference(
                x, dx, weight, bias, self.norm, self.epsilon, self._rope(), grid or (1, 1, 1), 0
            )
            for x, dx, weight, bias in ((q, dq, self.q_weight, self.q_bias), (k, dk, self.k_weight, self.k_bias))
        ]
        parts = [sums[part] for part in (1, 2) for sums in found]
        sums = [part.float() for part in parts if part is not None] if weight_gradient else []
        return found[0][0], found[1][0], torch.stack(sums) if sums else dq.new_empty((0, 0), dtype=torch.float32)

    def _rope(self) -> Rope | None:
        return rope_of(self.layout, self.time, self.height, self.width)
