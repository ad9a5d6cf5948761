"""What was measured to be fastest, per GPU and class of shapes: where "auto" looks first.

A table is a JSON file in `tables/`, named after the GPU, that `phys4d bench attention --tune` writes: for every class
the backends that could serve it, fastest first. A class is a pattern, a head dimension, how many keys a video query
sees (within a factor of four, the nearest) and whether gradients are wanted. Nothing is timed while a model runs.
"""

import functools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phys4d.kernels.attention.call import Call

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Ranking:
    """Backends that served a class, fastest first, and where and when that was measured."""

    backends: tuple[str, ...]
    source: str


def keys_per_query(call: Call) -> int:
    """Keys of its pattern that a video query sees."""
    if call.pattern.sees_all:
        return call.k.shape[1]
    assert call.grid is not None
    return call.pattern.keys_per_query(call.grid)


def ranking(call: Call) -> Ranking | None:
    """The measured order for this call, None where there is no table or no class near enough."""
    if not call.q.is_cuda:
        return None
    table = _table(slug(torch.cuda.get_device_name(call.q.device)))
    return None if table is None else nearest(table, call)


def nearest(table: dict[str, Any], call: Call) -> Ranking | None:
    """The order of the table's class nearest to the call, at most a factor of four away."""
    wanted = (call.pattern.name, call.q.shape[-1], call.training)
    best: tuple[float, dict[str, Any]] | None = None
    for entry in table["classes"]:
        if (entry["pattern"], entry["dim"], entry["training"]) != wanted:
            continue
        distance = abs(math.log2(entry["seen"] / keys_per_query(call)))
        if distance <= 2 and (best is None or distance < best[0]):
            best = distance, entry
    if best is None:
        return None
    return Ranking(tuple(best[1]["backends"]), f"{best[1]['case']} on {table['gpu']}, {table['date']}")


def slug(gpu: str) -> str:
    """The name of a GPU as that of a file: NVIDIA H200 gives nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


@functools.cache
def _table(name: str) -> dict[str, Any] | None:
    file = FOLDER / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None
