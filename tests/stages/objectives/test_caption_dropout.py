"""Captions that are dropped: which clips lose theirs, by the key of each, and what stands in its place."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.engine.random import uniform
from phys4d.models.world import WorldModel
from phys4d.stages import backbone, finetune, reinforce

SEED, STEP, NONE = 5, 2, 7.0
SHARE = 0.5


@pytest.fixture
def given(
    objective: Callable[..., Any], source: Any, world: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[tuple[Tensor, Tensor]]]:
    """What the model is given for the clips that a stage trains generation on: (text with captions, text)."""

    def run(stage: ModuleType, **settings: Any) -> list[tuple[Tensor, Tensor]]:
        seen: list[Tensor] = []
        predict = world.predict
        monkeypatch.setattr(world, "predict", lambda *args: seen.append(args[2]) or predict(*args))
        made = objective(stage, **settings)
        if stage is reinforce:
            batch = source.batch(8, made.parallel, SEED, "reinforce flow matching", STEP)
            made._flow_matching(batch)
            return [(batch.text, seen[0])]
        made.update(STEP, lambda parts: torch.stack([part().detach() for part in parts]).sum())
        batch = source.batch(8, made.parallel, SEED, made.name, STEP)
        return [(batch.text, torch.cat(seen))]

    return run


def expected(text: Tensor, stage: str, kept: Callable[[int], bool]) -> tuple[Tensor, list[int]]:
    keys = [(SEED, stage, STEP, place) for place in range(8)]
    dropped = [k for k, key in enumerate(keys) if float(uniform((), *key, "caption")) < SHARE and not kept(k)]
    text = text.clone()
    text[dropped] = NONE
    return text, dropped


STAGES = [
    (backbone, "backbone", lambda k: False),
    (finetune, "finetune", lambda k: k % 2 == 0),
    (reinforce, "reinforce flow matching", lambda k: False),
]


@pytest.mark.parametrize(("stage", "name", "kept"), STAGES, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("learned", [True, False])
def test_a_share_of_the_clips_is_learnt_without_its_caption(
    given: Any, source: Any, world: WorldModel, monkeypatch: pytest.MonkeyPatch,
    stage: ModuleType, name: str, kept: Callable[[int], bool], learned: bool,
) -> None:  # fmt: skip
    """Half of eight clips, but those that the heads of `finetune` read; by the encoder's tokens or learned ones."""
    asked: list[torch.device] = []
    monkeypatch.setattr(
        world.backbone, "unconditional", lambda text: torch.full_like(text, NONE) if learned else None
    )
    source.no_caption = lambda device: asked.append(device) or torch.full((3, 1), NONE)
    ((captions, text),) = given(stage, caption_dropout=SHARE, **({} if stage is reinforce else {"batch": 8}))
    wanted, dropped = expected(captions, name, kept)
    assert 0 < len(dropped) < 8 and torch.equal(text, wanted)
    assert asked == ([] if learned else [captions.device])


@pytest.mark.parametrize("stage", [backbone, finetune, reinforce])
def test_without_it_nothing_is_drawn(given: Any, monkeypatch: pytest.MonkeyPatch, stage: ModuleType) -> None:
    uses: list[Any] = []
    monkeypatch.setattr("phys4d.batch.uniform", lambda shape, *key: uses.append(key[-1]) or uniform(shape, *key))
    ((captions, text),) = given(stage, **({} if stage is reinforce else {"batch": 8}))
    assert torch.equal(text, captions) and set(uses) == {"sigma"}
