"""4D geometry on a GPU, at the shapes it is for: errors, bits and memory."""

import pytest
import torch

from phys4d.benchmarks import geometry as bench
from phys4d.benchmarks.cases import GEOMETRY
from phys4d.benchmarks.timing import peak_memory

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def outcome(loss, leaves):
    value = loss()
    return [value.detach(), *bench.backward_of(value, leaves)()]


@pytest.mark.parametrize("case", GEOMETRY, ids=lambda case: case.name)
def test_named_cases_are_right_and_the_same_in_every_run(case):
    device = torch.device("cuda")
    found, leaves = bench.rivals(case, device)
    first, second = (outcome(found["ours"], leaves) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.isfinite().all() and torch.equal(one, other)
    exact, exact_leaves = bench.rivals(case, device, torch.float64)
    truth = outcome(exact.get("eager", exact["ours"]), exact_leaves)
    eager = outcome(found["eager"], leaves) if "eager" in found else None
    for number, (mine, true) in enumerate(zip(first, truth, strict=True)):
        error = (mine.double() - true).norm() / true.norm()
        fault = (eager[number].double() - true).norm() / true.norm() if eager else 0.0
        assert error <= 2 * fault + 1e-4, f"{'value' if number == 0 else f'gradient {number}'}: {error:.1e}"


@pytest.mark.parametrize("case", [case for case in GEOMETRY if case.op == "chamfer"], ids=lambda case: case.name)
def test_chamfer_takes_memory_in_proportion_to_its_points(case):
    device = torch.device("cuda")
    found, leaves = bench.rivals(case, device)
    taken = peak_memory(lambda: outcome(found["ours"], leaves), device)
    assert taken is not None and taken * 2**20 <= 400 * 2 * case.shape[0]
