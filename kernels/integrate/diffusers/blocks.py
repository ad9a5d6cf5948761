"""What the blocks of all families share: a forward in place of their class's, and the norms that it bypasses."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.bypass import Known, known_forwards, not_plain, plain_class, refusal, submodule
from phys4d.kernels.integrate.diffusers.forwards import (
    ForwardReplacement,
    Undone,
    described,
    innermost,
    is_own_forward,
)
from phys4d.kernels.integrate.diffusers.setting import Setting

SWAPS = "gate, residual, norm and modulation"


class BlockForward(ForwardReplacement):
    """Replaces a block's `forward`: calls its layers as before, and computes what is between them with this package.

    Attributes:
        norms: names of the block's norms that are bypassed where they may be.
        known: the classes of norms that may be bypassed.
        in_float32: whether the model calls its norms with the stream in float32.
        enters, leaves: whether tokens are divided in front of this block, and gathered behind it. Known beforehand,
            since torch.compile guards values and not which of two equal modules it was given.
        swaps: what of the block is computed here, for the report.
    """

    norms: tuple[str, ...] = ()
    in_float32 = False
    swaps = SWAPS

    def __init__(self, path: str, module: Any, setting: Setting, known: Known) -> None:
        super().__init__(path, module)
        self.setting, self.known = setting, known
        divided = setting.divided
        self.enters = divided is not None and module is divided.first
        self.leaves = divided is not None and module is divided.last

    def own(self, *arguments: Any, **options: Any) -> Any:
        """What the block's class computes."""
        return type(self.module).forward(self.module, *arguments, **options)

    def pass_on(self, why: str, *arguments: Any, **options: Any) -> Any:
        """Calls the block's own forward, and notes the reason in the report."""
        self.setting.pass_on(self.path, why)
        return self.own(*arguments, **options)

    def bypass(self, norm: Any, device: torch.device | None) -> str | None:
        """Why this norm of the block must be called as it is; None if its parameters may be read instead."""
        why = refusal(norm, self.known, device)
        shape = () if why is not None else getattr(norm, "dim", None) or norm.normalized_shape
        return f"it norms {len(shape)} dimensions" if len(shape) > 1 else why

    def reasons(self) -> Iterator[str]:
        """The norms that are called as they are, as the block stands, whatever the device of its input."""
        for name in self.norms:
            norm = submodule(self.module, name)
            if not _is_absent(norm) and (why := self.bypass(norm, None)):
                yield f"{name} is called as it is: {why}"

    def normed(
        self, name: str, x: Tensor, y: Tensor | None = None, *, gate: Tensor | None = None,
        scale: Tensor | None = None, shift: Tensor | None = None, rows: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`adaptive_norm` with the block's norm of this name, without one where it is an Identity.

        A norm that may not be bypassed is called as the model does, and the rest computed around it.
        """
        norm, x = submodule(self.module, name), rows_of(x)
        y = None if y is None else rows_of(y)
        modulation = {"scale": scale, "shift": shift, "rows": rows}
        if _is_absent(norm):
            return adaptive_norm(x, y, gate=gate, norm=None, **modulation)  # type: ignore[arg-type]
        why = self.bypass(norm, x.device)
        if why is None:
            own = norm._parameters
            kind = "layer" if isinstance(norm, nn.LayerNorm) else "rms"
            affine = {"weight": own.get("weight"), "bias": own.get("bias"), "epsilon": norm.eps, "norm": kind}
            return adaptive_norm(x, y, gate=gate, **affine, **modulation)  # type: ignore[arg-type]
        self.setting.called.setdefault(self.path, f"{name}: {why}")
        stream = x if y is None else adaptive_norm(x, y, gate=gate, norm=None, rows=rows)[0]
        out = norm(stream.to(torch.promote_types(stream.dtype, torch.float32)) if self.in_float32 else stream)
        if scale is not None or shift is not None:
            out = adaptive_norm(out, norm=None, **modulation)[1]  # type: ignore[arg-type]
        return stream, out.to(x.dtype)


def rows_of(x: Tensor) -> Tensor:
    """x with a contiguous last dimension, which tokens straight from a convolution do not have."""
    return x if x.stride(-1) == 1 else x.contiguous()


_IDENTITY = known_forwards(nn.Identity)


def _is_absent(norm: Any) -> bool:
    return type(norm) is nn.Identity and not_plain(norm, _IDENTITY) is None


def block_refusal(block: nn.Module, known: type[nn.Module]) -> str | None:
    """Why this block's forward cannot be replaced; None if it is that of exactly the known class, or of the class that
    FSDP derived from it, be it below hooks of accelerate or diffusers."""
    if plain_class(block) is not known:
        return f"{type(block).__name__} is not diffusers' {known.__name__}"
    if not known_forwards(known):
        return f"{known.__name__}.forward was replaced"
    found = innermost(block).value
    if isinstance(found, BlockForward):
        return "swapped already"
    if is_own_forward(block, found) or (isinstance(found, Undone) and found.before is None):
        return None
    return f"its forward was replaced by other code ({described(found)})"
