"""A step divided over micro-batches and ranks minimises, and logs, what one process does with all clips at once."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.engine.distributed.parallel import Parallel
from phys4d.models.world import WorldModel
from phys4d.stages import backbone, finetune, pretrain, reinforce
from phys4d.stages.spec import Shares
from tests.stages.objectives.reinforce_by_hand import SETTINGS

STEP = 3
STAGES: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "backbone": (backbone, {"batch": 12}),
    "pretrain": (pretrain, {"batch": 12}),
    "finetune": (finetune, {"batch": 12, "diffusion": 3.0}),
    "reinforce": (reinforce, SETTINGS | {"conditions": 4, "flow_matching_batch": 4}),
}
LOCAL = ("ratio_std",)  # a deviation within each rank


def run(objective: Callable[..., Any], world: WorldModel, name: str, ranks: int, micro_batch: int | None) -> Any:
    """Loss and gradients of each optimizer step, and what is logged, summed over the ranks, one after the other."""
    stage, settings = STAGES[name]
    losses: list[list[float]] = []
    logged: dict[str, float] = {}
    trained = [p for p in world.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = None
    for rank in range(ranks):
        parallel = Parallel(rank, ranks, torch.device("cpu"))
        made = objective(stage, parallel, **settings, micro_batch=micro_batch)
        parts_of_step: list[int] = []

        def optimizer_step(parts: Any, counts: list[int] = parts_of_step, rank: int = rank) -> Tensor:
            counts.append(len(parts))
            total = 0.0
            for part in parts:
                loss = part()
                loss.backward()
                total += loss.item()
            if rank == 0:
                losses.append([])
            losses[len(counts) - 1].append(total)
            return torch.tensor(total)

        for key, value in made.update(STEP, optimizer_step).items():
            logged[key] = logged.get(key, 0.0) + float(value)
        assert min(parts_of_step) > 1 or micro_batch is None
    gradients = [None if p.grad is None else p.grad.clone() for p in trained]
    return [sum(of_step) for of_step in losses], gradients, logged


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (1, 5), (2, None), (2, 1), (4, None), (2, 2)])
@pytest.mark.parametrize("name", STAGES)
def test_they_add_up_to_the_step_of_one_process(
    objective: Callable[..., Any], world: WorldModel, monkeypatch: pytest.MonkeyPatch, name: str, ranks: int,
    micro_batch: int | None,
) -> None:  # fmt: skip
    if name == "reinforce":  # rewards that depend on the sample, and a policy that differs from the one that drew
        def reward(self: Any, latents: Tensor, samples: Any, conditions: Any, logged: Shares) -> Tensor:
            return latents.sum((1, 2, 3, 4)).sin()

        monkeypatch.setattr(reinforce.ReinforceObjective, "_reward", reward)
    monkeypatch.setattr(Parallel, "any", lambda self, flag: flag)  # the ranks run one after the other
    losses, gradients, logged = run(objective, world, name, 1, None)
    split, partial, shares = run(objective, world, name, ranks, micro_batch)
    assert split == pytest.approx(losses, rel=1e-5, abs=1e-6) and any(abs(loss) > 1e-3 for loss in losses)
    assert any(gradient is not None and gradient.abs().max() > 1e-4 for gradient in gradients)
    for whole, part in zip(gradients, partial, strict=True):
        if whole is not None:
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)
    for key in logged:
        if key not in LOCAL or ranks == 1:
            assert shares[key] == pytest.approx(logged[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize(
    ("ranks", "lengths", "called"),
    [(1, [1, 1, 1], [True, False, True]), (2, [1, 1], [True, False]), (2, [1, 1, 1], [True, True, True]),
     (1, [2, 1], [True, True])],
)  # fmt: skip
def test_all_ranks_call_the_heads_in_the_same_micro_batches(
    objective: Callable[..., Any], ranks: int, lengths: list[int], called: list[bool]
) -> None:
    """Two ranks of three clips: the first reads places 0 and 2, the second 4, which is its second one."""
    for rank in range(ranks):
        stage = objective(finetune, Parallel(rank, ranks, torch.device("cpu")), batch=ranks * sum(lengths))
        assert stage._heads_called(lengths) == called
