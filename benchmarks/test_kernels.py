"""pytest-benchmark entries: `pytest benchmarks --benchmark-only`. Small shapes where there is no GPU."""

import pytest
import torch

from phys4d.benchmarks import adaptive_norm, attention, elementwise, geometry
from phys4d.benchmarks.cases import ADAPTIVE_NORM, NORM_ROPE
from phys4d.benchmarks.timing import Prepared, finish
from phys4d.kernels.elementwise import QKNorm, Rope, qk_norm_rope

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(benchmark, work):
    """Times a call with pytest-benchmark, until the GPU has finished it."""

    def whole(call=work):
        call()
        finish(DEVICE)

    if isinstance(work, Prepared):
        benchmark.pedantic(whole, setup=lambda: ((work.ready(),), {}), rounds=10, warmup_rounds=2)
    else:
        benchmark(whole)


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("case", attention.cases(None, DEVICE), ids=lambda case: case.name)
def test_attention(benchmark, case, part):
    """`attention` with the backend that "auto" chooses."""
    generator = torch.Generator(device=DEVICE).manual_seed(0)
    shape = (case.batch, case.tokens, case.heads, case.dim)
    q, k, v, dout = (torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.bfloat16) for _ in range(4))
    found, _ = attention.peers(case, [q, k, v], ["auto"])
    weights = [torch.ones(case.dim, device=DEVICE, dtype=torch.bfloat16) for _ in range(2 if case.lanes else 0)]
    if part == "forward":
        timed(benchmark, lambda: found["auto"](q, k, v, *weights))
    else:
        leaves = [t.requires_grad_() for t in (q, k, v, *weights)]
        out = found["auto"](*leaves)
        timed(benchmark, lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True))


@pytest.mark.parametrize("case", elementwise.cases([c.name for c in NORM_ROPE], DEVICE), ids=lambda case: case.name)
def test_norm_rope(benchmark, case):
    """Queries and keys, forward."""
    q, k = torch.randn(2, 1, case.tokens, case.heads, case.dim, device=DEVICE, dtype=torch.bfloat16)
    lanes = case.heads * case.dim if case.kind == "rms_across_heads" else case.dim
    weight = torch.ones(lanes, device=DEVICE, dtype=torch.bfloat16)
    norm = QKNorm(case.kind, weight, weight)
    rope = Rope.make(case.grid, case.lanes, layout=case.layout, device=DEVICE)
    timed(benchmark, lambda: qk_norm_rope(q, k, norm, rope, grid=case.grid, text=(case.words, "first")))


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("case", elementwise.cases([c.name for c in ADAPTIVE_NORM], DEVICE), ids=lambda case: case.name)
def test_adaptive_norm(benchmark, case, part):
    """Gate, residual, norm and modulation."""
    made = adaptive_norm.inputs(case, DEVICE)
    ours = adaptive_norm.ours(made, case.mixed)
    timed(benchmark, ours.forward() if part == "forward" else ours.backward(made.gradients))


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("case", geometry.cases(None, DEVICE), ids=lambda case: case.name)
def test_geometry(benchmark, case, part):
    """Losses of 4D geometry and Chamfer distances, with the backend that "auto" chooses."""
    found, leaves = geometry.rivals(case, DEVICE)
    if part == "forward":
        timed(benchmark, torch.no_grad()(found["ours"]))
    else:
        timed(benchmark, geometry.backward_of(found["ours"](), leaves))
