"""The engine beside a bare loop: both train alike, and both are timed."""

from pathlib import Path

import torch

from phys4d.benchmarks import engine_overhead
from phys4d.engine.distributed.parallel import Parallel


def test_both_loops_take_the_same_steps_and_are_timed_in_turn() -> None:
    found = engine_overhead.overhead(16, 1, 4, torch.device("cpu"))
    assert found["steps"] == 4 and found["tensors"] == 12
    assert min(found["bare_ms"], found["engine_ms"], found["counting_step_ms"]) > 0
    text = engine_overhead.table({"overhead": found, "scaling": [{"ranks": 2, "step_ms": 1.0, "efficiency": 0.5}]})
    assert "4 steps of each in turn, 12 tensors" in text and "| 2 | 16 | 1.0 | 50% |" in text


def test_the_bare_loop_computes_what_the_engine_computes() -> None:
    found = engine_overhead.run(Parallel.alone(), 16, 1, 3, beside=True)
    bare = engine_overhead.network(16, 1)
    x = engine_overhead.data(16, torch.device("cpu"))
    steps = engine_overhead.bare(bare, x, Path("/dev/null"))
    for _ in range(len(found.own) + 1):
        next(steps)
    for trained, expected in zip(found.net.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(trained, expected)
