"""Counts what a training step does, while it runs on tensors that have shapes and no values."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from phys4d.engine.costs.memory import Peak, moved_bytes, tensors_in
from phys4d.engine.training.flops import formula_of, model_flops, name_of

T = TypeVar("T")
Operator = tuple[str, int, int]
"""(kind, FLOPs, bytes) of one call; kind: "attention", "attention backward", "matmul bfloat16", ..., or "memory"."""
Place = tuple[str, str, int]
"""Where a step is: its phase, the direction, and the block, counted from the end in the second half of them."""

_NO_PRODUCT = "memory"


@dataclass
class Figures:
    """What a step, or a part of it, does on one rank.

    operators: how often each kind of call occurs. sums: "model flops" (without what is computed again), "hardware
    flops", "sent: ..." in bytes by kind of exchange, and evaluations of modules by name.
    """

    operators: Counter[Operator] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    def copy(self) -> "Figures":
        """The same, apart."""
        return Figures(Counter(self.operators), Counter(self.sums))

    def since(self, before: "Figures") -> "Figures":
        """What was added to `before`."""
        operators, sums = Counter(self.operators), Counter(self.sums)
        operators.subtract(before.operators)
        sums.subtract(before.sums)
        return Figures(operators, sums)

    def add(self, more: "Figures") -> None:
        """Adds the figures of a further part."""
        self.operators.update(more.operators)
        self.sums.update(more.sums)


class Count(Peak):
    """Counts memory by place, FLOPs, bytes moved, and bytes exchanged within a group of `ranks`.

    known: tensors that do not count as memory (weights).

    Attributes:
        figures: so far. phase, place: where the step is. peaks: the largest `live` at each place, and the gradients
            among it.
        gradients: bytes of gradients among `live`.
    """

    def __init__(self, known: Iterable[Tensor], ranks: int = 1) -> None:
        super().__init__(known)
        self.figures, self.peaks = Figures(), dict[Place, tuple[int, int]]()
        self.phase, self.place = "training", ("", 0)
        self.gradients, self._beside, self._ranks, self._paused = 0, 0, ranks, False

    def add(self, size: int) -> None:
        super().add(size)
        place = self.phase, *self.place
        self.peaks[place] = max(self.peaks.get(place, (0, 0)), (self.live, self.gradients))
        self._beside = max(self._beside, self.live - self.gradients)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it memory counts, and nothing else does."""
        self._paused, before = True, self._paused
        try:
            yield
        finally:
            self._paused = before

    def note(self, what: str, amount: int = 1) -> None:
        """Adds to a sum, unless paused."""
        if not self._paused:
            self.figures.sums[what] += amount

    def replay(self, figures: Figures, above: int) -> None:
        """A part that has been counted once more: its figures, and its peak, in bytes above what exists now."""
        if not self._paused:
            self.figures.add(figures)
        self.add(above)
        self.live -= above

    def measured(self, part: Callable[[], T]) -> tuple[T, Figures, int]:
        """What a part returns, its figures, and its peak without gradients, in bytes above what existed before.

        Measured where the count is paused, too, but not added then.
        """
        before, start, outer, paused = self.figures.copy(), self.live - self.gradients, self._beside, self._paused
        self._beside, self._paused = start, False
        made = part()
        figures, above = self.figures.since(before), self._beside - start
        self._beside, self._paused = max(outer, self._beside), paused
        if paused:
            self.figures = before
        return made, figures, above

    def drop_gradients(self) -> None:
        """The gradients are gone."""
        self.live, self.gradients = self.live - self.gradients, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_dispatch__(function, types, args, kwargs)
        if not self._paused:
            name = name_of(function)
            if name.startswith("c10d::"):
                sent = exchanged(name, args, self._ranks)
                self.figures.sums[f"sent: {self._exchange(name)}"] += sent
            else:
                self._operator(name, function, args, kwargs or {}, made)
        return made

    def _exchange(self, name: str) -> str:
        """What a collective within the model is for."""
        within = self.place[1:] and self.place[0] in ("forward", "backward")
        return "attention" if within and re.search("alltoall|send|recv", name) else "tokens and taps"

    def _operator(self, name: str, function: Any, args: Any, kwargs: Any, made: Any) -> None:
        moved, formula = moved_bytes(function, args, kwargs, made), formula_of(function)
        flops = 0 if formula is None else int(formula(*args, **kwargs, out_val=made))
        if not moved and not flops:
            return
        kind = _NO_PRODUCT
        backward = "backward" in name
        if flops:
            result = next(tensors_in(made))
            kind = f"matmul {str(result.dtype).removeprefix('torch.')}"
            if "attention" in name:
                kind = "attention backward" if backward else "attention"
            elif "convolution" in name:
                kind = kind.replace("matmul", "convolution")
        self.figures.operators[kind, flops, moved] += 1
        self.figures.sums["hardware flops"] += flops
        self.figures.sums["model flops"] += model_flops(function, flops)


def exchanged(name: str, args: Any, ranks: int) -> int:
    """Bytes that one rank of `ranks` sends, or receives, in a collective of torch's dispatcher with these arguments."""
    sizes = [t.numel() * t.element_size() for t in tensors_in(args)]
    if "alltoall" in name:
        return sizes[0] * (ranks - 1) // ranks
    if "allgather" in name:
        return sizes[-1] * (ranks - 1)
    if "reduce_scatter" in name:
        return sizes[0] * (ranks - 1)
    if "allreduce" in name:
        return 2 * sizes[0] * (ranks - 1) // ranks
    return sizes[0] if "send" in name else 0


def watch_blocks(count: Count, blocks: Sequence[nn.Module]) -> None:
    """Has `count.place` follow the evaluation of these blocks, and their backward passes."""
    for number, block in enumerate(blocks):
        k = number if number < len(blocks) // 2 else number - len(blocks)

        def before(module: Any, args: Any, k: int = k) -> None:
            count.place = "forward", k

        def behind(module: Any, args: Any, made: Any, k: int = k) -> None:
            count.place = "behind", k
            tokens = made[0] if isinstance(made, tuple) else made  # of a block with text tokens beside the video's
            if isinstance(tokens, Tensor) and tokens.requires_grad:
                tokens.register_hook(lambda gradient: backward(k))

        def backward(k: int) -> None:
            count.place = "backward", k

        block.register_forward_pre_hook(before)
        block.register_forward_hook(behind)


def watch_gradients(count: Count, parameters: Iterable[Tensor], held: Callable[[Tensor], int]) -> None:
    """Has each gradient count with `held(parameter)` bytes from the moment when it is whole."""

    def whole(parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        if count.seen.get(storage) is None:
            return  # one more micro-batch was added to it
        count.leave_out(parameter.grad)
        count.gradients += held(parameter)
        count.add(held(parameter))

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(whole)  # type: ignore[attr-defined]
