"""Two ranks under ZeRO check one optimizer beside one process that sees the whole batch: python zero_ranks.py STAGE."""

import copy
import os
import socket
import sys
from functools import partial
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from phys4d.engine.distributed import zero
from phys4d.engine.distributed.collectives import full, local
from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.optimizer import Optimizer, OptimizerConfig

WIDTH, RANKS = 5, 2  # 25 elements over two ranks: padding, and a boundary within a row


class Net(nn.Module):
    """A frozen bf16 layer and a trained one in each of two blocks; a trained scale beside them."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.ModuleDict({"base": nn.Linear(WIDTH, WIDTH), "own": nn.Linear(WIDTH, WIDTH)}) for _ in range(2)]
        self.blocks = nn.ModuleList(Block(layer) for layer in layers)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.dtype == torch.float32 and timestep.item() == torch.tensor(701.3).item()
        for block in self.blocks:
            x = block(x)
        return self.scale * x


class Block(nn.Module):
    def __init__(self, layers: nn.ModuleDict) -> None:
        super().__init__()
        self.layers = layers
        layers["base"].requires_grad_(False).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        assert all(parameter.numel() >= WIDTH for parameter in self.parameters())  # gathered
        return (self.layers["base"](x.to(torch.bfloat16)).float() + self.layers["own"](x)).tanh()


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"net": Net(), "head": nn.Linear(WIDTH, 3)}


def optimizer(made: dict[str, nn.Module], parallel: Parallel) -> Optimizer:
    config = OptimizerConfig(learning_rate=1e-2, clip_norm=0.05, weight_decay=0.1, ema=0.9)
    trained = {name: [p for p in m.parameters() if p.requires_grad] for name, m in made.items()}
    groups = [{"name": name, "params": params, "lr_scale": 1.0 + (name == "head")} for name, params in trained.items()]
    return Optimizer(config, made, groups, parallel)


def losses(made: dict[str, nn.Module], step: int, clips: range, *, infinite: bool = False) -> list[Any]:
    """One for each clip; the head is evaluated in the second half of them alone."""

    def loss(clip: int, head: bool) -> Tensor:
        x = torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH) * (clip + 1) + step
        y = made["net"](x, torch.tensor([701.3]))
        if not head:
            return y.square().mean()
        return made["head"](y).square().mean() + (torch.inf * y.sum() if infinite else 0)

    return [partial(loss, clip, i >= len(clips) // 2) for i, clip in enumerate(clips)]


def values(state: Optimizer) -> dict[str, Tensor]:
    return {name: local(tensor).clone() for name, tensor in state.state().items()}


def check(rank: int, stage: int, port: int) -> None:
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{RANKS}", "LOCAL_WORLD_SIZE": f"{RANKS}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    zero.kept_for_backward = lambda memory: 0  # weights are released behind each block
    alone = modules()
    divided = copy.deepcopy(alone)
    frozen = alone["net"].blocks[1].layers["base"].weight
    with Parallel.start() as parallel:
        parallel.arrange(ParallelConfig(strategy="deepspeed", zero_stage=stage))
        parallel.shard(divided["net"], list(divided["net"].blocks))
        parallel.shard(divided["head"])
        base = divided["net"].blocks[1].layers["base"].weight
        assert local(base).numel() == (25 if stage == 2 else 13 - rank) and local(base).dtype == torch.bfloat16
        assert torch.equal(full(base), frozen)

        one, many = optimizer(alone, Parallel.alone()), optimizer(divided, parallel)
        held = sum(local(moments["exp_avg"]).numel() for moments in many.update.moments.values())
        whole = sum(p.numel() for p in one.parameters.values())
        assert held < 0.6 * whole, (held, whole)

        for step in range(4):  # with different learning rates of the groups; the head has no gradient in some losses
            one.schedule(4, step), many.schedule(4, step)
            expected = one.optimizer_step([*losses(alone, step, range(4)), *losses(alone, step, range(4, 8))])
            norm = many.optimizer_step(losses(divided, step, range(rank * 4, rank * 4 + 4)))
            torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)
            group = many.update.group_norms()
            torch.testing.assert_close(group.square().sum().sqrt(), expected, rtol=1e-5, atol=0)
        for name, parameter in many.parameters.items():
            torch.testing.assert_close(full(parameter).detach(), one.parameters[name].detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(full(base), frozen)

        before = values(many)
        norm = many.optimizer_step(losses(divided, 4, range(rank * 4, rank * 4 + 4), infinite=rank == 1))
        assert not norm.isfinite()
        after = values(many)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert {name.split(".")[0] for name in changed} <= {"updates", "ema"}, changed

        with torch.no_grad(), parallel.gathered(divided["net"]):
            for _ in range(2):
                divided["net"](torch.ones(1, WIDTH), torch.tensor([701.3]))
                assert base.numel() == 25
        assert base.numel() == (25 if stage == 2 else 0)
        many.use_ema()
        for name, average in many.average.weights.items():
            start, own = average.start, local(average)
            assert torch.equal(full(many.parameters[name]).detach().flatten()[start : start + len(own)], own)
    print(f"rank {rank}: done", flush=True)


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(check, args=(int(sys.argv[1]), port), nprocs=RANKS)
