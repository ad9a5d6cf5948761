"""What a training stage is to the rest of the program: one `StageSpec`, listed in `phys4d.stages.registry`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from phys4d.clips import Clips
from phys4d.engine.config import Config
from phys4d.engine.data.sampler import Course
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.loop import OptimizerStep
from phys4d.models.backbone import Backbone
from phys4d.models.world import WorldModel
from phys4d.stages.data import with_caches

NEW = ""  # in `StageSpec.takes`: a new model with random weights
RELEASED = "released"  # in `StageSpec.takes`: a pretrained backbone in the diffusers folder layout


@dataclass(frozen=True)
class Drawn:
    """A global batch of a step. name: of the order it is drawn in. number: of the batch in it, from 0. size: in clips.
    """

    name: str
    number: int
    size: int


class StageObjective(ABC):
    """An `engine.training.loop.Objective` over a world model, made from the stage's own table of the run file.

    name: of the stage. affine_depth: whether it learns from depth that is disparity up to scale and shift, too. config:
    its table. model: the world model. parallel: the ranks. seed: of all random numbers.
    clips: what it trains on, by default the clips of the folder `data` of its table.
    """

    name: ClassVar[str]
    affine_depth: ClassVar[bool] = False

    def __init__(
        self, config: Any, model: WorldModel, parallel: Parallel, seed: int, clips: Clips | None = None
    ) -> None:
        self.config, self.model, self.parallel, self.seed = config, model, parallel, seed
        if clips is None:
            data = with_caches(config.data)
            clips = Clips(
                data, self.arrays(config), model.text, model.grid, on_bad=config.on_bad, affine_depth=self.affine_depth
            )
        self.clips = clips

    @staticmethod
    @abstractmethod
    def arrays(config: Any) -> tuple[str, ...]:
        """Arrays that every clip of its data must have."""

    @staticmethod
    @abstractmethod
    def prepare(model: WorldModel, config: Any, seed: int) -> None:
        """Adds what the stage trains (adapters) and sets requires_grad, before the model is placed on its device."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Modules with trained parameters, by name."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of exactly the trained parameters."""

    @abstractmethod
    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        """One training step (see `engine.training.loop.Objective`)."""

    def leave_out_values(self) -> None:
        """Prepares for an `update` on tensors that have shapes and no values: leaves out what reads values."""
        return

    def samples(self) -> Sequence[str]:
        """Names of the clips of the latest step on this rank."""
        return self.clips.latest

    def batches(self, step: int) -> Sequence[Drawn]:
        """The batches of clips that a step draws, the one that its samples are counted by first."""
        return [Drawn(self.name, step, self.config.batch)]


class ClipOrder:
    """The `engine.training.sample_order.SampleOrder` of a stage.

    objective: the stage. each: samples for each clip of a step's first batch.
    """

    def __init__(self, objective: StageObjective, each: int) -> None:
        self._objective, self._each = objective, each

    def _course(self, drawn: Drawn) -> Course:
        return self._objective.clips.course(self._objective.seed, drawn.name)

    def state(self, step: int) -> dict[str, Tensor]:
        """How many clips of each bucket of each pool were drawn (`engine.data.sampler.Order`), by the order's name."""
        first = {drawn.name: drawn for drawn in reversed(self._objective.batches(step))}
        return {
            name: torch.from_numpy(self._course(drawn).state(drawn.number, drawn.size).copy())
            for name, drawn in first.items()
        }

    def samples(self, step: int) -> int:
        """Clips that were drawn before a step, each as often as samples are made of it."""
        return self._each * int(self.state(step)[self._objective.name].sum())

    def resume(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` gave. ValueError if it is of other datasets."""
        for drawn in reversed(self._objective.batches(step)):
            self._course(drawn).resume(drawn.number, state[drawn.name].numpy())

    def kind(self, step: int) -> Hashable:
        """The buckets of a step's batches, and how large these are."""
        clips = self._objective.clips
        drawn = self._objective.batches(step)
        return tuple((clips.bucket(self._objective.seed, one.name, one.number, one.size), one.size) for one in drawn)


def by_depth(name: str, backbone: Backbone, decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of all trained parameters of the transformer: block k of n learns at the rate times
    decay^(n - 1 - k), and what is in no block as the first."""
    trained = [p for p in backbone.transformer.parameters() if p.requires_grad]
    if decay == 1:
        return [{"name": name, "params": trained, "lr_scale": 1.0}]
    count = len(backbone.blocks)
    depth = {id(p): k for k, block in enumerate(backbone.blocks) for p in block.parameters()}
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter in trained:
        groups.setdefault(depth.get(id(parameter), 0), []).append(parameter)
    return [{"name": name, "params": groups[k], "lr_scale": decay ** (count - 1 - k)} for k in sorted(groups)]


class Shares:
    """Scalars of a step, summed over its micro-batches: each is a mean over clips, times their share of all clips."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}

    def add(self, share: float, **means: Tensor | float) -> None:
        """Adds share * mean for each; they get no gradient."""
        for name, value in means.items():
            part = share * (value.detach() if isinstance(value, Tensor) else torch.tensor(value))
            self.sums[name] = self.sums[name] + part if name in self.sums else part


@dataclass(frozen=True)
class Panel:
    """One curve of the report: a name in metrics.jsonl, a title, the unit, and a name whose value is drawn as ±."""

    name: str
    title: str
    unit: str
    spread: str | None = None


@dataclass(frozen=True)
class StageSpec:
    """A training stage.

    name: of the stage, of its table in the run file, and of the model folder `model-<name>` that it writes.
    config: the class of its table, which has the keys data, on_bad, optimizer and loop at least.
    objective: what is trained.
    takes: names of the stages whose model it can start from; NEW and RELEASED stand for models that no stage wrote.
    arrays: arrays that every clip of its data must have, by its table.
    samples: clips that a step trains on over all ranks, by its table.
    divided: keys of its table that are divided over the ranks, so that each must be a multiple of their number.
    static_camera: whether the cameras of its clips must stand still, by its table.
    owns_backbone: whether its model folder holds the backbone itself instead of naming the folder that does.
    reads_geometry: whether its model reads depth and motion, so that it is evaluated and shown in the report.
    trains_reader: whether it changes how depth and motion are read off a given video.
    rewarded: whether it trains on a reward, so that the report compares the reward before and after it.
    summary: what it did, for the report: "trained ...".
    panels: curves of the report. parts: names of further curves, shown on request.
    """

    name: str
    config: type[Config]
    objective: type[StageObjective]
    takes: tuple[str, ...]
    arrays: Callable[[Any], tuple[str, ...]]
    summary: str
    samples: Callable[[Any], int] = lambda table: table.batch
    divided: tuple[str, ...] = ("batch",)
    static_camera: Callable[[Any], bool] = lambda table: False
    owns_backbone: bool = False
    reads_geometry: bool = True
    trains_reader: bool = True
    rewarded: bool = False
    panels: tuple[Panel, ...] = (Panel("loss", "loss", "loss"),)
    parts: tuple[str, ...] = ()
