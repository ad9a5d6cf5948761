"""Two ranks step over micro-batches that do not all evaluate both modules; prints what each step did.

torchrun --nproc-per-node 2 unsummed_training.py
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.optimizer import Optimizer, OptimizerConfig


def main() -> None:
    parallel = Parallel.start()
    modules = {"one": nn.Sequential(nn.Linear(4, 4)), "two": nn.Sequential(nn.Linear(4, 4))}
    for module in modules.values():
        parallel.shard(module, [module[0]])
    groups = [{"name": name, "params": list(module.parameters())} for name, module in modules.items()]
    optimizer = Optimizer(OptimizerConfig(learning_rate=1e-3), modules, groups, parallel)

    def loss(*names: str) -> Callable[[], Tensor]:
        return lambda: sum((modules[name](torch.ones(2, 4)).sum() for name in names), torch.zeros(()))

    for title, parts in {
        "both": (loss("one", "two"), loss("one", "two")),
        "one never": (loss("two"), loss("two")),
        "one last": (loss("two"), loss("one", "two")),
        "one first": (loss("one", "two"), loss("two")),
    }.items():
        try:
            optimizer.optimizer_step(parts)
            result = "stepped"
        except RuntimeError as error:
            result = str(error)
        if parallel.rank == 0:
            print(f"{title}: {result}", flush=True)
    parallel.close()


if __name__ == "__main__":
    main()
