"""Initial weights: torch's distributions, the same on every rank and in every run, different for different names."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from phys4d.engine.random import uniform
from phys4d.models.config import ModelConfig
from phys4d.models.heads import GeometryHeads, HeadConfig
from phys4d.models.initial import draw_layers, draw_uniform, nothing_drawn
from phys4d.models.interface import Grid
from phys4d.models.lora import add_adapter
from phys4d.models.wan.backbone import WanBackbone
from phys4d.models.world import create_model

GRID = Grid(9, 16, 16, (4, 8, 8))


def heads(kind: str, seed: int) -> dict[str, torch.Tensor]:
    return GeometryHeads(HeadConfig(kind=kind, width=16), 32, 2, 5, GRID, seed).state_dict()  # type: ignore[arg-type]


def adapters(seed: int) -> dict[str, torch.Tensor]:
    transformer = create_model(ModelConfig(width=32, layers=1, taps=(0,)), 5, 16, 16, seed=0).backbone.transformer
    for name in ("finetune", "reinforce"):
        add_adapter(transformer, name, 4, seed, targets=WanBackbone.lora_targets)
    return {key: tensor for key, tensor in transformer.state_dict().items() if "lora_" in key}


def tiny(seed: int) -> dict[str, torch.Tensor]:
    return create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=seed).state_dict()


@pytest.mark.parametrize("draw", [*(partial(heads, kind) for kind in ("conv", "dpt", "linear")), adapters, tiny])
def test_they_depend_on_the_seed_alone(draw: Callable[[int], dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(1)
    first = draw(0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = draw(0), draw(1)
    assert all(torch.equal(again[key], tensor) for key, tensor in first.items())
    assert any(not torch.equal(other[key], tensor) for key, tensor in first.items())
    if draw in (adapters, tiny):
        assert torch.equal(torch.get_rng_state(), state)


def test_layers_are_drawn_as_torch_draws_them() -> None:
    ours, theirs = (nn.Sequential(nn.Linear(64, 400), nn.Conv2d(8, 300, 3), nn.Conv3d(5, 400, 1)) for _ in range(2))
    draw_layers(ours, 0, "test")
    for (name, drawn), (_, usual) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert drawn.abs().max() <= usual.abs().max() * 1.03 and drawn.abs().max() >= usual.abs().max() * 0.97, name
        deviation = usual.abs().max() / math.sqrt(3)
        assert abs(drawn.mean()) < 4 * deviation / math.sqrt(drawn.numel()), name
        assert abs(drawn.std() / deviation - 1) < 0.1, name


def test_the_range_is_that_of_the_inputs_of_one_output() -> None:
    """Of a layer with one output too: 1 / sqrt(4), 1 / sqrt(2 x 3 x 3); what is no layer is left as it is."""
    modules = nn.Sequential(nn.Linear(4, 1), nn.Conv2d(2, 1, 3), nn.LayerNorm(4))
    for parameter in modules.parameters():
        nn.init.constant_(parameter, 7.0)
    draw_layers(modules, 0, "test")
    for name, bound in (("0.weight", 1 / 2), ("0.bias", 1 / 2), ("1.weight", 18**-0.5), ("1.bias", 18**-0.5)):
        assert 0 < modules.get_parameter(name).abs().max() <= bound, name
    assert (modules[2].weight == 7).all() and (modules[2].bias == 7).all()  # type: ignore[union-attr]


def test_numbers_are_uniform_on_both_sides_of_zero() -> None:
    drawn = torch.empty(10_000)
    draw_uniform(drawn, 0.3, 5, "test")
    torch.testing.assert_close(drawn, (2 * uniform((10_000,), 5, "test") - 1) * 0.3)
    assert -0.3 <= drawn.min() < -0.299 and 0.299 < drawn.max() < 0.3 and abs(drawn.mean()) < 0.01


def test_heads_start_small_and_unmodulated() -> None:
    conv, linear = heads("conv", 0), heads("linear", 0)
    for head, channels in (("depth", 1), ("motion", 3)):
        last = conv[f"{head}.doubling.2.weight"]
        assert last.shape[0] == 4 * channels and 0.9 < last.abs().max() / (0.1 / math.sqrt(last[0].numel())) <= 1
        first = conv[f"{head}.doubling.0.weight"]
        assert 0.99 < first.abs().max() * math.sqrt(first[0].numel()) <= 1
        assert all((conv[f"{head}.modulations.{k}.project.{part}"] == 0).all() for k in (0, 1) for part in ("weight",))
        assert (conv[f"{head}.place"] == 0).all() and (linear[f"{head}.project.bias"] == 0).all()
        flat = linear[f"{head}.project.weight"]
        assert 0.99 < flat.abs().max() / (0.01 * math.sqrt(6 / sum(flat.shape))) <= 1
        assert (linear[f"{head}.modulation.project.weight"] == 0).all()
    same_shape = conv["depth.projections.0.weight"], conv["motion.projections.0.weight"]
    assert not torch.equal(*same_shape)


def test_two_adapters_do_not_share_their_a_and_begin_without_effect() -> None:
    weights = adapters(0)
    firsts = [key for key in weights if ".lora_A.finetune." in key]
    assert len(firsts) == 10
    seen = [weights[key.replace("finetune", name)] for key in firsts for name in ("finetune", "reinforce")]
    for i, a in enumerate(seen):
        bound = 1 / math.sqrt(a.shape[1])
        assert 0.9 * bound < a.abs().max() <= bound
        assert all(a.shape != b.shape or not torch.equal(a, b) for b in seen[:i])
    assert all((tensor == 0).all() for key, tensor in weights.items() if ".lora_B." in key)


def test_nothing_is_drawn_for_models_that_are_counted() -> None:
    layer = nn.Linear(3, 4)
    given = layer.weight.detach().clone()
    with nothing_drawn():
        draw_layers(layer, 0)
    assert torch.equal(layer.weight, given)
    draw_layers(layer, 0)
    assert not torch.equal(layer.weight, given)
