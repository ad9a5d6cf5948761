"""What the blocks of all model families share: a forward in place of their class's, and the norms that it may read."""

from typing import Any

from torch import Tensor, nn

from phys4d.kernels.elementwise import adaptive_norm
from phys4d.kernels.integrate.diffusers.processor import Setting

SWAPS = "gate, residual, norm and modulation"


class BlockForward:
    """Replaces a block's `forward`: calls its layers as before, and computes what is between them with this package.

    A copy of the model (copy.deepcopy) copies it along, bound to its own block.
    """

    def __init__(self, path: str, block: Any, setting: Setting) -> None:
        self.path, self.block, self.setting = path, block, setting

    def own(self, *arguments: Any, **options: Any) -> Any:
        """What the block's class computes."""
        return type(self.block).forward(self.block, *arguments, **options)

    def pass_on(self, why: str, *arguments: Any, **options: Any) -> Any:
        """Calls the block's own forward, and notes the reason in the report."""
        self.setting.passed.setdefault(self.path, why)
        return self.own(*arguments, **options)

    def swap(self) -> None:
        """Puts itself in its block's place."""
        self.block.forward = self

    def undo(self) -> None:
        """Restores the class's forward. A replacement put over this one since then stays, and calls that forward."""
        if self.block.__dict__.get("forward") is self:
            del self.block.forward
        else:
            self.__class__ = _Undone


class _Undone(BlockForward):
    """A forward that was undone while another replacement, put over it since, still calls it."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.own(*arguments, **options)


def block_refusal(block: nn.Module, known: type[nn.Module]) -> str | None:
    """Why this block's forward cannot be replaced; None if it is that of the known class, or of a subclass by FSDP."""
    found = block.__dict__.get("forward")
    if isinstance(found, BlockForward):
        return "swapped already"
    if found is not None:
        return "its forward was replaced, by hooks of diffusers or by other code"
    own = type(block).forward is known.forward  # type: ignore[comparison-overlap]
    return None if own else f"its forward is not that of diffusers' {known.__name__}"


def layer_norm_refusal(norm: Any, known: type[nn.Module], *also: type[nn.Module]) -> str | None:
    """Why this is not a LayerNorm over the last dimension whose weight, bias and epsilon may be read instead of calling
    it; None if it is, or is one of the classes `also`."""
    if type(norm) in also:
        return None
    if type(norm) is not known or len(getattr(norm, "normalized_shape", (0, 0))) != 1:
        return f"a norm that is not known ({type(norm).__name__})"
    if norm._forward_hooks or norm._forward_pre_hooks or "forward" in norm.__dict__:
        return "a norm with hooks, which would not run"
    return None


def normed(norm: Any, x: Tensor, y: Tensor | None = None, **modulation: Any) -> tuple[Tensor, Tensor]:
    """`adaptive_norm` with the weight, bias and epsilon of this LayerNorm; without a norm where it is an Identity."""
    if isinstance(norm, nn.Identity):
        return adaptive_norm(x, y, norm=None, **modulation)
    return adaptive_norm(x, y, weight=norm.weight, bias=norm.bias, epsilon=norm.eps, **modulation)
