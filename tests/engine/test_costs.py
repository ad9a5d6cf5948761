"""Costs of a step, against figures worked out by hand."""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from phys4d.engine.costs.counting import Count, watch_blocks, watch_gradients
from phys4d.engine.costs.gpus import ATTENTION, GPUS, LINKS, MEMORY, PRODUCTS, link, seconds
from phys4d.engine.costs.memory import without_values
from phys4d.engine.costs.sharded import Sharding, own_numbers
from phys4d.engine.distributed.mesh import MeshShape
from phys4d.engine.training.activations import checkpoint_activations

H100 = GPUS["h100"]


@pytest.mark.parametrize("rows", [1, 5, 7, 8])
def test_the_first_rank_holds_what_torch_gives_the_first_of_four(rows: int) -> None:
    parameter = torch.empty(rows, 3)
    assert own_numbers(parameter, 4) == parameter.chunk(4)[0].numel()
    assert own_numbers(torch.empty(()), 4) == 1


def test_one_layer_on_a_mesh_of_two_by_two() -> None:
    """10 x 6 weights and 10 biases in fp32, 280 bytes, of which each of two ranks holds 5 rows, twice over."""
    sharding = Sharding(nn.Linear(6, 10), [], MeshShape(replicate=2, shard=2), memory=1 << 30)
    assert sum(sharding.held(p) for p in sharding.module.parameters()) == 140
    assert sharding.gathered() == 280
    assert sharding.gradients_on_their_way() == 2 * 280
    assert sharding.sent(evaluated=1, trained=1, rollouts=0, rolled_out=0, steps=1) == {
        "gather weights": 280,  # half of 280 bytes for each of two evaluations
        "sum gradients over shards": 140,
        "sum gradients over replicas": 140,  # there and back, half of 140 bytes each
    }


@pytest.mark.parametrize(
    ("memory", "gathered", "rolled_out", "sent"),
    [
        # Blocks of 160 bytes and a root of 80: 560 in all. They stay gathered for the backward pass from 5,600 bytes of
        # memory on, in rollouts from 2,240 on.
        (5_600, 80 + 480 + 160, 80 + 480 + 160, 4 * 560),  # one training evaluation, two others, one rollout
        (5_599, 80 + 320 + 160, 80 + 480 + 160, 4 * 560 + 480),
        (2_239, 80 + 320 + 160, 80 + 320 + 160, (4 + 2) * 560 + 480),  # three evaluations of the rollout, each gathers
    ],
)
def test_blocks_are_gathered_as_memory_allows(memory: int, gathered: int, rolled_out: int, sent: int) -> None:
    module = nn.Sequential(nn.Linear(5, 8, bias=False), *(nn.Linear(5, 8, bias=False) for _ in range(3)))
    module[0] = nn.Linear(4, 5, bias=False)  # the root's own
    sharding = Sharding(module, list(module[1:]), MeshShape(shard=2), memory)
    assert sharding.gathered() == gathered
    assert sharding.gathered(rollout=True) == rolled_out
    received = sharding.sent(evaluated=2, trained=1, rollouts=1, rolled_out=3, steps=1)
    assert received["gather weights"] == sent // 2


def test_one_process_gathers_and_sends_nothing() -> None:
    sharding = Sharding(nn.Linear(6, 10), [], MeshShape(), memory=1)
    assert sharding.gathered() == sharding.gradients_on_their_way() == 0
    assert sharding.sent(1, 1, 1, 1, 1) == {}


@pytest.mark.parametrize(("mode", "again"), [("none", 0), ("full", 120)])
def test_flops_of_two_layers_without_and_with_recomputation(mode: str, again: int) -> None:
    """4 rows of 3 numbers to 5 to 2: 120 and 80 FLOPs forward, as many for the gradients of the weights, 80 for that of
    the 5. Only the first is computed again, since no result of the second is needed."""
    block = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Linear(5, 2, bias=False))
    checkpoint_activations([block], mode)
    with Count(block.parameters()) as count:
        block(torch.ones(4, 3)).sum().backward()
    assert count.figures.sums["model flops"] == 480
    assert count.figures.sums["hardware flops"] == 480 + again


def test_attention_counts_four_forward_and_eight_of_ten_backward() -> None:
    q = torch.zeros(2, 7, 3, 16, requires_grad=True)
    k = torch.zeros(2, 5, 3, 16)
    forward = 4 * 2 * 7 * 5 * 3 * 16
    count = Count([])
    with count:
        out = nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, k)))
    assert count.figures.sums["model flops"] == forward
    with count:
        out.sum().backward()
    assert count.figures.sums["model flops"] == 3 * forward
    assert count.figures.sums["hardware flops"] == pytest.approx(3.5 * forward)


def test_a_gradient_counts_with_what_the_rank_keeps_of_it() -> None:
    layer = nn.Linear(8, 8, bias=False)
    count = Count(layer.parameters())
    watch_gradients(count, layer.parameters(), lambda parameter: parameter.numel())
    with count:
        for _ in range(2):  # the second is added to the first
            layer(torch.ones(1, 8)).sum().backward()
    assert count.gradients == count.live == 64
    count.drop_gradients()
    assert count.gradients == count.live == 0


def test_peaks_have_places_and_the_middle_of_a_model_has_room() -> None:
    blocks = [nn.Identity() for _ in range(5)]
    count = Count([])
    watch_blocks(count, blocks)
    x = torch.ones(4, requires_grad=True)
    with count:
        for block in blocks:
            x = block(x.exp())
        x.sum().backward()
    assert {place[1:] for place in count.peaks} >= {("behind", 0), ("behind", 1), ("behind", -2), ("backward", -1)}


def test_what_is_measured_can_be_replayed() -> None:
    count = Count([])
    x = torch.ones(256)
    with count:
        kept, figures, above = count.measured(lambda: (x + 1) + 1)
        assert above == 2 * x.nbytes and count.live == kept.nbytes == x.nbytes
        with count.paused():
            _, again, _ = count.measured(lambda: x + 1)
            assert sum(again.operators.values()) == 1
        before = sum(count.figures.operators.values())
        count.replay(figures, above)
    assert before == 2 and sum(count.figures.operators.values()) == 4
    assert count.most == 3 * x.nbytes and count.live == x.nbytes


def test_exchanges_of_a_group_are_counted() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        x = torch.ones(16)
        with Count([], 4) as count:
            dist.all_to_all_single(torch.empty(16), x)
            dist.all_gather([torch.empty(16) for _ in range(4)], x)
            dist.reduce_scatter_tensor(torch.empty(4), x)
            dist.all_reduce(x)
    finally:
        dist.destroy_process_group()
    assert count.figures.sums["sent: tokens and taps"] == 64 * 3 // 4 + 64 * 3 + 16 * 3 + 2 * 64 * 3 // 4


def test_a_call_takes_the_longer_of_arithmetic_and_traffic() -> None:
    arithmetic = ("matmul bfloat16", 10**12, 10**6)
    traffic = ("memory", 0, 10**9)
    attention = ("attention", 10**12, 0)
    assert seconds(Counter({arithmetic: 2}), H100) == pytest.approx(2 / (PRODUCTS * 989))
    assert seconds(Counter({traffic: 1}), H100) == pytest.approx(1 / (MEMORY * 3350))
    assert seconds(Counter({attention: 1}), H100) == pytest.approx(1 / (ATTENTION * 989))


@pytest.mark.parametrize(
    ("shape", "what", "gb"),
    [
        (MeshShape(shard=8), "weights", 450),
        (MeshShape(shard=16), "weights", 8 * 50),  # two nodes: eight interfaces of each serve one group
        (MeshShape(replicate=8, shard=8), "replicate", 50),  # each GPU of a node has a group of its own
        (MeshShape(replicate=8, shard=2), "replicate", 4 * 50),
        (MeshShape(replicate=2, shard=4), "replicate", 450),
        (MeshShape(replicate=8, context=8), "context", 450),
    ],
)
def test_groups_use_the_links_between_their_ranks(shape: MeshShape, what: str, gb: int) -> None:
    assert link(H100, shape, what) == LINKS * gb * 1e9


def test_a_module_without_values_keeps_shapes_dtypes_and_what_is_trained() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode, is_fake

    module = nn.BatchNorm1d(3).to(torch.bfloat16)
    module.weight.requires_grad_(False)
    without_values(module, FakeTensorMode())
    assert is_fake(module.weight) and is_fake(module.running_mean)
    assert module.weight.dtype == torch.bfloat16 and module.weight.shape == (3,)
    assert not module.weight.requires_grad and module.bias.requires_grad
