"""Every family sharded by FSDP2, each layer by itself, accelerated before it and after it."""

import copy

import pytest
import torch.distributed as dist

from phys4d.kernels.integrate.diffusers import accelerate, kit, registered_families

QUICK = ("wan", "cogvideox", "latte", "ltx", "hunyuan")
NAMES = sorted(name for family in registered_families() for name in family.examples)
# Kandinsky 5 rounds queries and keys to bfloat16 in float32 too, where a last bit may become 2^-8.
TOLERANCES = {"kandinsky-5": 5e-3}


@pytest.fixture(scope="module")
def mesh():
    """One rank, without a network."""
    assert not dist.is_initialized()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
@pytest.mark.parametrize("order", kit.ORDERS)
def test_fsdp_of_every_leaf(name, order, build, mesh):
    """Each layer sharded by itself: weights are DTensors, but inside of the layer's own call."""
    from torch.distributed.fsdp import fully_shard

    def sharded(model):
        for layer in [m for m in model.modules() if not list(m.children()) and list(m.parameters())]:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    model, call = build(name)
    stock = copy.deepcopy(model)
    if order == "before":
        accelerated = accelerate(model)
        sharded(model)
    else:
        sharded(model)
        accelerated = accelerate(model)
    sharded(stock)
    assert accelerated.swapped
    outs = []
    for each in (stock, model):
        outs.append(each(**call)[0])
        outs[-1].square().sum().backward()
    tolerance = TOLERANCES.get(name, 1e-5)
    assert (outs[1] - outs[0]).abs().max() <= tolerance * outs[0].abs().max()
    for (path, one), two in zip(model.named_parameters(), stock.parameters(), strict=True):
        if two.grad is not None:
            found, truth = one.grad.full_tensor(), two.grad.full_tensor()
            assert (found - truth).abs().max() <= 10 * tolerance * max(truth.abs().max(), 1e-2), path
    assert not accelerated.passed
