"""One training step of a stage, run on tensors without values, and counted.

What a step evaluates several times alike - micro-batches, denoising steps, clips of the codec - is run once and counted
as often as it occurs. The stage's own code decides what that is: its objective is run as it is.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.batch import Batch
from phys4d.caches.lookup import all_read
from phys4d.dry_run.clips import ClipsWithoutValues
from phys4d.dry_run.model import hold_in_bf16
from phys4d.engine.costs.counting import Count, Figures, Place, watch_blocks, watch_gradients
from phys4d.engine.costs.memory import uncollected, without_values
from phys4d.engine.costs.sharded import FP32, own_numbers
from phys4d.engine.distributed.mesh import ParallelConfig, mesh_shape
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.activations import checkpoint_activations
from phys4d.engine.training.optimizer import Loss
from phys4d.models.interface import cached_shape
from phys4d.models.lora import active_names
from phys4d.models.world import WorldModel
from phys4d.stages.data import data_of
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig

ROLLOUT, TRAINING = "rollout", "training"
CODEC = "codec"
"""In sums: evaluations of the codec, whose weights are read at the first one."""


@dataclass(frozen=True)
class Counted:
    """One step on one rank. peaks: (live bytes, gradients among them) at each place, beyond weights, moments and
    codec; figures: its calls and sums."""

    peaks: dict[Place, tuple[int, int]]
    figures: Figures


class OneRank(Parallel):
    """One of so many ranks, none of which exists; notes what of a step is a rollout.

    It is the second of its context group, which has most to do: the first has the video's first latent frame, which is
    one frame of pixels and not four.
    """

    def __init__(self, config: ParallelConfig, world_size: int, group: dist.ProcessGroup | None) -> None:
        shape = mesh_shape(config, world_size)
        super().__init__(_place(shape.context), world_size, torch.device("cpu"))
        self.config, self.shape, self.context = config, shape, group
        self.count: Count | None = None

    def gathered(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext() if self.count is None else self._rollout(self.count)

    @contextmanager
    def _rollout(self, count: Count) -> Iterator[None]:
        count.note("rollouts")
        count.phase, before = ROLLOUT, count.phase
        yield
        count.phase = before


@contextmanager
def group_without_ranks(size: int) -> Iterator[dist.ProcessGroup | None]:
    """A process group of so many ranks, of which this is one, whose collectives exchange nothing."""
    if size == 1:
        yield None
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=_place(size), world_size=size)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def _place(ranks: int) -> int:
    return min(1, ranks - 1)


def count_step(
    config: RunConfig,
    stage: str,
    model: WorldModel,
    parallel: OneRank,
    size: tuple[int, int, int],
    codec: dict[Any, Any],
) -> Counted:
    """Counts a step of a stage.

    config: of the run. model: from `stage_model`. parallel: the rank. size: (frames, height, width) of a clip. codec:
    as in `Source`.
    """
    backbone, table = model.backbone, config.table(stage)
    model.use_attention("auto", parallel)
    hold_in_bf16(model)
    checkpoint_activations(backbone.blocks, config.checkpointing, [torch.ops.phys4d.attention.default])
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_values(model, mode)
    spec, text = STAGES[stage], (model.text.tokens, model.text.width)
    cached = all_read(data_of(table), config.cache)
    clips: Any = ClipsWithoutValues(size, spec.arrays(table), text, cached_shape(model.codec, size) if cached else None)
    objective = spec.objective(table, model, parallel, config.seed, clips)
    objective.leave_out_values()

    count = Count([*model.parameters(), *model.buffers()], parallel.shape.context)
    parallel.count = count
    trained = [p for module in objective.modules().values() for p in module.parameters() if p.requires_grad]
    step = Step(count, trained)
    watch_blocks(count, backbone.blocks)
    ranks = parallel.shape.shard * parallel.shape.context
    watch_gradients(count, trained, lambda p: FP32 * (p.numel() if step.unsharded else own_numbers(p, ranks)))
    for name, module in (("transformer", backbone.transformer), ("heads", model.heads)):
        module.register_forward_pre_hook(_evaluated(count, name))
    backbone.forward = Once(count, backbone.forward, {}, backbone.transformer)  # type: ignore[method-assign,assignment]
    for name in ("encode", "decode"):
        setattr(model.codec, name, Once(count, getattr(model.codec, name), codec))
    for module in model.codec.chunked:
        module.forward = Chunk(count, module.forward)  # type: ignore[method-assign,assignment]

    alike = mock.patch.object(torch, "equal", lambda *tensors: True)  # tables are compared: no values are there
    with mode, alike, uncollected(), count, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        warnings.filterwarnings("ignore", category=FutureWarning)
        objective.update(0, step)
    return Counted(count.peaks, count.figures)


def _evaluated(count: Count, name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any) -> None:
        kind = TRAINING if torch.is_grad_enabled() else count.phase
        count.note(f"{name}: {kind if kind == ROLLOUT or torch.is_grad_enabled() else 'evaluated'}")

    return note


class Once:
    """A function whose evaluations without gradients are run once for all inputs of the same shapes.

    count: adds it up. call: the function. known: what they cost, by the shapes. transformer: whose adapters and
    gradients matter; None for a function without trained weights, which has gradients where its inputs have them.
    """

    def __init__(
        self, count: Count, call: Callable[..., Any], known: dict[Any, Any], transformer: nn.Module | None = None
    ) -> None:
        self.count, self.call, self.known, self.transformer = count, call, known, transformer

    def __call__(self, *tensors: Tensor) -> Any:
        if self.transformer is None:
            self.count.note(CODEC)
            if _differentiated(tensors):
                return self.call(*tensors)
        kind: tuple[Any, ...] = (getattr(self.call, "__name__", ""),)
        if self.transformer is not None:
            if torch.is_grad_enabled():
                return self.call(*tensors)
            kind = self.count.phase, active_names(self.transformer)
        key = *kind, *((t.shape, t.dtype) for t in tensors)
        if key in self.known:
            like, figures, above = self.known[key]
            self.count.replay(figures, above)
            with self.count.paused():
                return _empty(like)
        made, figures, above = self.count.measured(lambda: self.call(*tensors))
        self.known[key] = _shapes(made), figures, above
        return made


@dataclass(frozen=True)
class Plain:
    """A value that holds no tensor."""

    value: Any


class Chunk:
    """A codec's evaluation of one chunk of a clip, run once for all chunks whose tensors have the same shapes, but for
    those with gradients.

    What the next chunk needs of this one is in lists among its inputs, which it changes, or in what it returns.
    """

    def __init__(self, count: Count, call: Callable[..., Any]) -> None:
        self.count, self.call = count, call
        self.known: dict[Any, Any] = {}

    def __call__(self, *tensors: Tensor, **others: Any) -> Any:
        if _differentiated((*tensors, *others.values())):
            return self.call(*tensors, **others)
        lists = [value for value in others.values() if isinstance(value, list)]
        key = repr((_shapes(tensors), [(name, _shapes(value)) for name, value in others.items()]))
        if key in self.known:
            like, figures, above = self.known[key]
            self.count.replay(figures, above)
            with self.count.paused():
                made, *after = _empty(like)
        else:
            made, figures, above = self.count.measured(lambda: self.call(*tensors, **others))
            after = lists
            self.known[key] = _shapes((made, *lists)), figures, above
        for given, filled in zip(lists, after, strict=True):
            given[:] = filled
        return made


def _differentiated(values: Sequence[Any]) -> bool:
    """Whether a graph is made of one of these values, or of those in a list among them."""
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return torch.is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in flat)


def _shapes(value: Any) -> Any:
    """The value with (shape, strides, dtype) in place of tensors; strides decide on copies later on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, dict):
        return {name: _shapes(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_shapes(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return Plain(value)
    parts = {field.name: _shapes(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return type(value), parts


def _empty(like: Any) -> Any:
    if isinstance(like, list):
        return tuple(_empty(part) for part in like)
    if isinstance(like, dict):
        return {name: _empty(part) for name, part in like.items()}
    if isinstance(like, Plain):
        return like.value
    if isinstance(like[0], torch.Size):
        return torch.empty_strided(like[0], like[1], dtype=like[2])
    return like[0](**{name: _empty(part) for name, part in like[1].items()})


class Step:
    """In place of an optimizer step: backward passes of all losses, those that are alike run once.

    unsharded: whether gradients are now summed up over micro-batches, whole, before they are summed over the ranks.
    """

    def __init__(self, count: Count, trained: Sequence[Tensor]) -> None:
        self.count, self.trained, self.unsharded = count, trained, False
        self.known: dict[Any, tuple[Figures, int]] = {}

    def __call__(self, losses: Sequence[Loss]) -> Tensor:
        self.count.note("optimizer steps")
        self.unsharded = len(losses) > 1
        for loss in losses:
            key = _signature(loss)
            if key in self.known:
                self.count.replay(*self.known[key])
                with self.count.paused(), torch.no_grad():  # what the loss leaves behind is needed by the stage
                    loss()
            else:
                _, figures, above = self.count.measured(_passes(loss))
                self.known[key] = figures, above
                self.count.place = "", 0
        for parameter in self.trained:
            parameter.grad = None
        self.count.drop_gradients()
        return torch.zeros(())


def _passes(loss: Loss) -> Callable[[], None]:
    return lambda: loss().backward()


def _signature(loss: Any) -> Any:
    """Equal for losses that compute the same on tensors of the same shapes."""

    def of(value: Any) -> Any:
        if isinstance(value, Batch):
            return len(value.rng_keys)
        return (value.shape, value.dtype) if isinstance(value, Tensor) else type(value).__name__

    parts = (value if isinstance(value, bool | int | float) else of(value) for value in loss.args)
    return loss.func.__name__, *parts
