"""Which LoRA a stage adds to the transformer: rank, alpha, modules and blocks, by the run file or the kind of model.

The paper trains "LoRA on high-noise layers" and publishes no more. Where a model has one expert for high noise and one
for low, that names the first one's weights. The models here have one transformer for all noise levels, so that we read
it as a choice of blocks: `blocks` restricts the adapter to a range of them, and all else stays as published, at every
noise level. Which blocks these are for high noise is not known; the default is all of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from pydantic import Field, field_validator
from torch import nn

from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.models.backbone import Backbone
from phys4d.models.registry import MODELS
from phys4d.models.world import WorldModel


class AdapterConfig(Config):
    """The LoRA of a stage. What is left out is that of the kind of model: rank and alpha 32 for published ones (the
    authors' rank; they name no alpha), 16 for tiny, on the linear modules that docs/pretrained-models.md lists.

    rank: of the two factors.
    alpha: the factors' product counts alpha / rank times; left out, as often as by default: once.
    targets: ends of the paths of the linear modules that it acts on, such as ["to_q", "to_v"].
    blocks: first and last of the transformer's blocks that carry it, counted from 0; left out: all of them.
    """

    rank: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    blocks: tuple[int, int] | None = None

    @field_validator("blocks")
    @classmethod
    def _in_order(cls, blocks: tuple[int, int] | None) -> tuple[int, int] | None:
        if blocks is not None and not 0 <= blocks[0] <= blocks[1]:
            raise ValueError(f"expected [first, last], from 0 on, got {list(blocks)}")
        return blocks


@dataclass(frozen=True)
class Adapter:
    """A LoRA for a transformer. rank, alpha: as in `AdapterConfig`; targets: ends of paths, or whole ones."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


def adapter_of(stage: str, config: AdapterConfig, model: WorldModel) -> Adapter:
    """The LoRA that the table of a stage asks for of this model. UserError for one that it cannot have."""
    default, backbone = MODELS[model.config.kind].lora, model.backbone
    check_adapter(stage, config, backbone.transformer, len(backbone.blocks))
    rank = config.rank or default.rank
    alpha = config.alpha or rank * default.alpha / default.rank
    ends = config.targets or backbone.lora_targets
    return Adapter(rank, alpha, ends if config.blocks is None else in_blocks(backbone, ends, *config.blocks))


def check_adapter(stage: str, config: AdapterConfig, transformer: nn.Module, blocks: int) -> None:
    """UserError for a LoRA that this transformer cannot have.

    stage: whose table it is. config: that table. transformer: on any device. blocks: their number.
    """
    if config.blocks is not None and config.blocks[1] >= blocks:
        raise UserError(f"{stage}.blocks: {list(config.blocks)}: the transformer has blocks 0 to {blocks - 1}")
    paths = _adapted(transformer) if config.targets is not None else []
    for end in config.targets or ():
        if not any(_ends(path, [end]) for path in paths):
            inside = dict.fromkeys(found[1] for path in paths if (found := re.match(r"\w+\.0\.(.+)", path)))
            raise UserError(f"{stage}.targets: no linear module is called {end!r}: there are {', '.join(inside)}")


def in_blocks(backbone: Backbone, ends: Sequence[str], first: int, last: int) -> tuple[str, ...]:
    """Paths in the transformer of the modules with these ends that lie in these blocks."""
    place = {id(module): path for path, module in backbone.transformer.named_modules()}
    blocks = list(backbone.blocks)[first : last + 1]
    return tuple(f"{place[id(block)]}.{path}" for block in blocks for path in _adapted(block) if _ends(path, ends))


def _adapted(module: nn.Module) -> list[str]:
    """Paths of the linear modules, with or without a LoRA on them, and none of what a LoRA consists of."""
    linear = [path for path, part in module.named_modules() if isinstance(part, nn.Linear | LoraLayer)]
    return [path for path in linear if ".base_layer" not in path and ".lora_" not in path]


def _ends(path: str, ends: Sequence[str]) -> bool:
    return any(path == end or path.endswith(f".{end}") for end in ends)
