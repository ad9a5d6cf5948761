"""Prints by how many bytes the memory of this process grew at most while it fine-tuned for two steps.

The argument is JSON: batch, size, and keys of the run file.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

from phys4d.engine.training.optimizer import Optimizer
from phys4d.stages.registry import STAGES

sys.path.insert(0, str(Path(__file__).parent))

from conftest import ClipsOfNoise, made, real_model


def resident() -> int:
    """Bytes of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def step(keys: dict[str, Any], size: tuple[int, int, int], batch: int) -> None:
    from phys4d.engine.distributed.parallel import Parallel

    config = made(finetune={"batch": batch}, **keys)
    spec, table = STAGES["finetune"], config.table("finetune")
    model = real_model(config, "finetune", size)
    clips: Any = ClipsOfNoise(size, spec.arrays(table), (model.text.tokens, model.text.width))
    objective = spec.objective(table, model, Parallel.alone(), 0, clips)
    optimizer = Optimizer(table.optimizer, objective.modules(), objective.parameter_groups())
    for number in range(2):
        objective.update(number, optimizer.optimizer_step)


given = json.loads(sys.argv[1])
batch, size = given.pop("batch"), tuple(given.pop("size"))
step(given, (5, 32, 32), 2)  # what libraries load when they are first called
before = resident()
step(given, size, batch)  # type: ignore[arg-type]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
