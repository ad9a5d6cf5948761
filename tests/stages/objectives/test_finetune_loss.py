"""Stage `finetune`: diffusion on all clips, geometry on every other one, against fp64 by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.engine.random import normal, uniform
from phys4d.models.world import WorldModel
from phys4d.stages import finetune
from phys4d.stages.geometry_loss import GeometryWeights

SEED, STEP, PROBE, SHIFT = 5, 6, 0.07, 2.5
SLOPE = 0.3 + 0.2 + 0.1  # of the stub's velocity, all adapters acting
WEIGHTS = {"depth": 1.5, "flow": 0.7, "dz": 2.5, "warp": 0.9}
DIFFUSION = 4.0


def drawn(source: Any, clip: int, place: int, alone: bool = False) -> tuple[Tensor, Tensor, float, Tensor]:
    """Clean latents, noise, sigma and noisy latents of a clip at a place of the batch, fp64."""
    key = (SEED, "finetune", STEP, place)
    u = float(uniform((), *key, "sigma"))
    if alone or place % 2 == 0:
        sigma = 0.02 + 0.28 * u ** (math.log((PROBE - 0.02) / 0.28) / math.log(0.5))
    else:
        sigma = max(SHIFT * u / (1 + (SHIFT - 1) * u), 0.02)
    clean, noise = 2 * source.video[clip].double(), normal((3, 3, 2, 2), *key, "noise").double()
    noisy = (1 - sigma) * clean + sigma * noise
    noisy[:, 0] = clean[:, 0]
    return clean, noise, sigma, noisy


def diffusion(source: Any, places: list[int], alone: bool = False) -> float:
    """Mean squared error of the velocity over latent frames 1 and 2 of all clips."""
    errors = []
    for place in places:
        clean, noise, sigma, noisy = drawn(source, place % 2, place, alone)
        errors.append((SLOPE * noisy + sigma + 0.05 * (place % 2) - (noise - clean))[:, 1:].square().mean())
    return float(torch.stack(errors).mean())


def test_the_loss_is_diffusion_of_all_clips_and_geometry_of_every_other(
    objective: Callable[..., Any], source: Any, world: WorldModel, minimised: Any, geometry_by_hand: Callable[..., Any]
) -> None:
    """Three clips at places 0, 1, 2: the first one is at 0 and 2, both read by the heads; 4/3 = 2 * 2 / 3 of it."""
    weights = GeometryWeights(**WEIGHTS, moving_depth=4, moving_motion=6, margin=0)
    stage = objective(finetune, batch=3, diffusion=DIFFUSION, weights=weights)
    report = stage.update(STEP, minimised)
    assert source.asked == [(3, SEED, "finetune", STEP)]
    depths, motions = [], []
    for place in (0, 2):
        _, _, sigma, noisy = drawn(source, 0, place)
        depths.append(0.8 * (1 + noisy[0].abs() + sigma + SLOPE))
        motions.append(0.9 * noisy[:, :-1].tanh())
    labels = {name: array[[0, 0]] for name, array in source.arrays.items()}
    by_hand = geometry_by_hand(
        torch.stack(depths), torch.stack(motions), labels, labels["moving"],
        weights=WEIGHTS, moving_depth=4, moving_motion=6, margin=0,
    )  # fmt: skip
    assert by_hand["warp"] > 0.01
    expected = diffusion(source, [0, 1, 2])
    total = DIFFUSION * expected + 4 / 3 * by_hand["total"]
    assert minimised.losses == [pytest.approx(total, rel=1e-5)]
    assert float(report["loss"]) == pytest.approx(total, rel=1e-5)
    assert not any(value.requires_grad for value in report.values())
    assert float(report["diffusion_loss"]) == pytest.approx(expected, rel=1e-5)
    for name in WEIGHTS:  # two of three clips were read, as stated by 4/3 * 3/4 = 1
        assert float(report[f"{name}_loss"]) == pytest.approx(by_hand[name], rel=1e-5), name
    assert world.heads.near.grad is not None and world.backbone.transformer.adapters.finetune.grad is not None


def test_the_geometry_terms_of_two_clips_are_those_of_the_first(
    objective: Callable[..., Any], source: Any, minimised: Any, geometry_by_hand: Callable[..., Any]
) -> None:
    stage = objective(finetune, batch=2, diffusion=0.0)  # default weights: 2, 0.3, 3, 0.5, and 8 and 16 within 2 px
    report = stage.update(STEP, minimised)
    _, _, sigma, noisy = drawn(source, 0, 0)
    labels = {name: array[:1] for name, array in source.arrays.items()}
    by_hand = geometry_by_hand(
        0.8 * (1 + noisy[0].abs() + sigma + SLOPE)[None], 0.9 * noisy[:, :-1].tanh()[None], labels, labels["moving"],
        weights={"depth": 2.0, "flow": 0.3, "dz": 3.0, "warp": 0.5}, moving_depth=8, moving_motion=16, margin=2,
    )  # fmt: skip
    assert minimised.losses == [pytest.approx(by_hand["total"], rel=1e-5)]
    assert float(report["warp_loss"]) == pytest.approx(by_hand["warp"], rel=1e-5)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_heads_that_learn_alone_read_every_clip(
    objective: Callable[..., Any], source: Any, world: WorldModel, minimised: Any, geometry_by_hand: Callable[..., Any],
    micro_batch: int | None,
) -> None:  # fmt: skip
    """Step numbers count from 0. The diffusion term is of the same noise levels, and has no gradient."""
    weights = GeometryWeights(**WEIGHTS, moving_depth=0, moving_motion=0, margin=0)
    settings = {"batch": 3, "diffusion": DIFFUSION, "weights": weights, "micro_batch": micro_batch}
    stage = objective(finetune, heads_first=STEP + 1, **settings)
    report = stage.update(STEP, minimised)
    depths, motions = [], []
    for place in (0, 1, 2):
        _, _, sigma, noisy = drawn(source, place % 2, place, alone=True)
        depths.append(0.8 * (1 + noisy[0].abs() + sigma + SLOPE))
        motions.append(0.9 * noisy[:, :-1].tanh())
    expected = diffusion(source, [0, 1, 2], alone=True)
    assert float(report["diffusion_loss"]) == pytest.approx(expected, rel=1e-5)
    if micro_batch is None:
        labels = {name: array[[0, 1, 0]] for name, array in source.arrays.items()}
        by_hand = geometry_by_hand(
            torch.stack(depths), torch.stack(motions), labels, labels["moving"],
            weights=WEIGHTS, moving_depth=0, moving_motion=0, margin=0,
        )  # fmt: skip
        assert minimised.losses == [pytest.approx(DIFFUSION * expected + by_hand["total"], rel=1e-5)]
        for name in WEIGHTS:
            assert float(report[f"{name}_loss"]) == pytest.approx(by_hand[name], rel=1e-5), name
    else:
        assert float(report["loss"]) == pytest.approx(sum(minimised.losses))
    assert world.heads.near.grad is not None and world.backbone.transformer.adapters.finetune.grad is None
    after = objective(finetune, heads_first=STEP, **settings)
    after.update(STEP, minimised)
    assert world.backbone.transformer.adapters.finetune.grad is not None


def test_sigma_is_at_least_two_percent(
    objective: Callable[..., Any], minimised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phys4d.batch.uniform", lambda shape, *key: torch.zeros(shape))
    seen: list[list[float]] = []
    stage = objective(finetune, batch=2)
    predict = stage.model.predict
    monkeypatch.setattr(stage.model, "predict", lambda *given: seen.append(given[1].tolist()) or predict(*given))
    stage.update(STEP, minimised)
    assert seen == [pytest.approx([0.02, 0.02])]


@pytest.mark.parametrize(
    ("flags", "factor", "chosen"),
    [
        ([True, False], 1.0, [0]), ([True, False, True], 4 / 3, [0, 2]), ([True], 2.0, [0]),
        ([False], 0.0, [0]), ([False, False], 0.0, [0]), ([False, True, False], 2 / 3, [1]),
    ],
)  # fmt: skip
def test_a_rank_counts_as_many_of_its_clips_as_are_read(flags: list[bool], factor: float, chosen: list[int]) -> None:
    assert finetune._weight_of_read(flags) == (pytest.approx(factor), chosen)


def test_a_rank_without_read_clips_has_the_diffusion_loss_alone(
    objective: Callable[..., Any], source: Any, minimised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = objective(finetune, batch=2, diffusion=DIFFUSION)
    whole = source.batch

    def second_rank(size: int, *rest: Any) -> Any:
        both = whole(size, *rest)
        return type(both)(
            both.video[1:], both.text[1:], {n: a[1:] for n, a in both.arrays.items()}, both.intrinsics[1:],
            both.rng_keys[1:],
        )  # fmt: skip

    monkeypatch.setattr(source, "batch", second_rank)
    report = stage.update(STEP, minimised)
    assert minimised.losses == [pytest.approx(DIFFUSION * diffusion(source, [1]), rel=1e-5)]
    assert float(report["depth_loss"]) == 0 and float(stage.model.heads.near.grad) == 0


def test_it_trains_its_adapter_and_the_heads(
    objective: Callable[..., Any], world: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = objective(finetune, rank=7, heads_lr_scale=2.5)
    arrays = finetune.SPEC.arrays(stage.config)
    assert set(arrays) == {"depth", "motion", "depth_valid", "flow_valid", "dz_valid", "visible", "moving"}
    transformer, added = world.backbone.transformer, []

    def add_adapter(*given: Any) -> None:
        added.append(given)
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(name == "adapters.finetune")

    monkeypatch.setattr(finetune, "add_adapter", add_adapter)
    world.requires_grad_(False)
    stage.prepare(world, stage.config, SEED)
    assert added == [(transformer, "finetune", 7, SEED, ("slope",), 7.0)]
    trained = {name for name, p in world.named_parameters() if p.requires_grad}
    assert trained == {"backbone.transformer.adapters.finetune", "heads.near", "heads.shift"}
    assert stage.modules() == {"transformer": transformer, "heads": world.heads}
    lora, heads = stage.parameter_groups()
    assert lora["params"][0] is transformer.adapters.finetune and len(lora["params"]) == 1 and lora["lr_scale"] == 1.0
    assert [id(p) for p in heads["params"]] == [id(p) for p in world.heads.parameters()] and heads["lr_scale"] == 2.5
