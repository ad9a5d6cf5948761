"""Context parallelism: two and three processes (gloo) give the results and gradients of one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phys4d.kernels.attention import Full, attention, attention_backward, attention_reference, part_of

PROGRAM = Path(__file__).with_name("context_ranks.py")
_spec = importlib.util.spec_from_file_location("context_ranks", PROGRAM)
assert _spec is not None and _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
sys.modules["context_ranks"] = program  # where a dataclass looks for its module
_spec.loader.exec_module(program)

CASES = program.cases()
EXACT = [name for name in CASES if CASES[name].dtype == torch.float64]
ROUNDED = [name for name in CASES if CASES[name].dtype != torch.float64]


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def ranks(request, tmp_path_factory, repository):
    """What every rank of so many found."""
    folder = tmp_path_factory.mktemp("context")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    done = subprocess.run(
        [sys.executable, *torchrun, str(PROGRAM), str(folder)],
        cwd=repository, capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


def joined(parts):
    """The whole of what the ranks found of a case: tokens side by side, gradients of weights added up."""
    whole = {name: torch.cat([part[name] for part in parts], dim=1) for name in ("out", "dq", "dk", "dv")}
    whole["lse"] = torch.cat([part["lse"] for part in parts], dim=2)
    return whole | {name: sum(part[name] for part in parts) for name in parts[0] if name not in whole}


def assert_equal_to_one_process(case, parts):
    one, whole = program.run(case), joined(parts)
    assert whole.keys() == one.keys()
    for name, expected in one.items():
        weight = name.endswith(("weight", "bias"))  # their gradients are summed in float32
        tolerance = 1e-5 * expected.abs().max() if weight else 1e-12
        assert whole[name].dtype == expected.dtype
        torch.testing.assert_close(
            whole[name], expected, rtol=0, atol=float(tolerance), msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", EXACT)
def test_ranks_together_equal_one_process(ranks, name):
    assert_equal_to_one_process(CASES[name], [rank[name] for rank in ranks])


def test_the_cases_hold_unequal_parts_and_queries_that_see_nothing():
    for context in ("ulysses", "ring"):
        for size in (2, 3):
            assert any(case.count % size for case in CASES.values() if case.context == context)
    blind = [name for name in EXACT if program.run(CASES[name])["lse"].isneginf().any()]
    assert any(name.startswith("ulysses") for name in blind)


@pytest.mark.parametrize("name", ROUNDED)
def test_the_rings_error_is_at_most_twice_that_of_one_process(ranks, name):
    case = CASES[name]
    truth = program.run(case, exact=True)
    one, whole = program.run(case), joined([rank[name] for rank in ranks])
    for part, exact in truth.items():
        error, own = ((found[part].double() - exact).abs().max() for found in (whole, one))
        assert error <= 2 * own, part


@pytest.mark.parametrize("name", program.TWICE)
def test_a_second_call_gives_the_same_bits(ranks, name):
    for rank in ranks:
        assert all(torch.equal(rank[name][part], rank[f"again-{name}"][part]) for part in rank[name])


@pytest.mark.parametrize("name", program.TWICE[:2])
def test_a_group_may_be_some_of_the_processes(ranks, name):
    found = [rank[f"some-{name}"] for rank in ranks]
    members = program.some(len(ranks))
    assert_equal_to_one_process(CASES[name], [found[rank] for rank in members])
    assert {found[rank] for rank in range(len(ranks)) if rank not in members} == {"group: this process is not in it"}


@pytest.mark.slow  # two ranks, as in the other slow tests
@pytest.mark.parametrize("ranks", [2], indirect=True)  # compiling costs seconds and knows no number of ranks
def test_ulysses_compiles_into_one_graph(ranks):
    assert [found["compiled"] for found in ranks] == [[True] * 4] * 2


def test_refusals_say_why_on_every_rank(ranks):
    size = len(ranks)
    for rank, found in enumerate(ranks):
        said = found["refusals"]
        part = part_of(150, rank, size)
        own = part_of(125, rank, size)
        count = own.stop - own.start
        divisors = f"7 heads do not divide over {size} ranks (groups of 1, 7 would do)"
        assert said == {
            "heads": f"context 'ulysses': {divisors}",
            "auto": f"context 'auto': Ulysses cannot serve, {divisors}; nor can the ring, for Full() alone",
            "pattern": "context 'ring': serves Full() alone, not Window(t=1, h=2, w=3)",
            "shared": f"context 'ulysses': 1 heads of keys and values do not divide over {size} ranks "
            "(groups of 1 would do)",
            "causal": "context 'ring': serves Full() alone, not Full(causal=True)",
            "masked": "context 'ring': serves Full() alone, not with a mask",
            "wide": "context 'ring': serves Full() alone, not with values of another width than keys",
            "mask": f"mask: expected [B or 1, heads or 1, S_q or 1, S_k] of [1, 6, 125, 125], got [1, 1, {count}, 125]",
            "length": f"group: rank {rank} of {size} holds tokens {part.start} to {part.stop - 1} of 150, "
            f"{part.stop - part.start} queries and keys, got {count} and {count}",
            "text": said["text"],
            "keys": said["keys"],
            "grid": "group: needs the grid (T, H, W) of the whole sequence, got None",
            "few": f"group: 1 tokens do not give each of {size} ranks one",
            "context": "context 'both': expected auto, ulysses or ring",
            "window": "Window(t=6, h=1, w=1): t must be between 1 and the grid's 5",
            "lse": "backend 'sdpa' cannot serve this call: torch SDPA does not return the log-sum-exp",
            "backend": "backend 'triton' cannot serve this call: its kernels run on CUDA, the tensors are on cpu",
        }
        assert "of 134, " in said["text"] and said["keys"].endswith(f"got {count} and {count - 1}")


def test_explain_names_the_strategy(ranks):
    size = len(ranks)
    for found in ranks:
        begins = {name: text.split(":")[0] for name, text in found["chosen"].items()}
        assert begins == {
            "six": f"ulysses over {size} ranks, each rank sdpa",
            "window": f"ulysses over {size} ranks, each rank sdpa",
            "seven": f"ring over {size} ranks, each rank reference",
            "ring": f"ring over {size} ranks, each rank reference",
        }


@given(st.integers(0, 40), st.integers(1, 9))
def test_parts_are_those_of_tensor_split(count, size):
    parts = [torch.arange(count)[part_of(count, rank, size)] for rank in range(size)]
    for part, expected in zip(parts, torch.tensor_split(torch.arange(count), size), strict=True):
        assert torch.equal(part, expected)
    for rank in (-1, size):
        with pytest.raises(ValueError, match=f"expected a rank of 0 to {size - 1}"):
            part_of(count, rank, size)


def blocks_add_up(device, dtype, tolerance):
    """Gradients over two blocks of keys, with out and lse of both, against autograd over all keys in float64."""
    generator = torch.Generator().manual_seed(5)
    q, k, v, dout = (torch.randn(2, n, 2, 16, generator=generator).double() for n in (9, 12, 12, 9))
    dlse = torch.randn(2, 2, 9, generator=generator).double()
    exact = [t.requires_grad_() for t in (q, k, v)]
    out, lse = attention_reference(*exact, key_lengths=torch.tensor([12, 3]))
    expected = torch.autograd.grad((out * dout).sum() + (lse * dlse).sum(), exact)
    q, k, v, out, dout = (t.detach().to(device, dtype) for t in (q, k, v, out, dout))
    lse, dlse = (t.detach().to(device, torch.promote_types(dtype, torch.float32)) for t in (lse, dlse))
    shares = [
        attention_backward(
            q, k[:, part], v[:, part], out, lse, dout, dlse, key_lengths=torch.tensor(lengths, device=device)
        )
        for part, lengths in ((slice(0, 5), [5, 3]), (slice(5, 12), [7, 0]))
    ]
    found = [shares[0][0] + shares[1][0], *(torch.cat((shares[0][i], shares[1][i]), dim=1) for i in (1, 2))]
    for mine, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double().cpu(), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
def test_backward_of_blocks_adds_up(dtype, tolerance):
    blocks_add_up("cpu", dtype, tolerance)


@pytest.mark.interpreted
def test_backward_of_blocks_adds_up_in_the_kernels(device):
    blocks_add_up(device, torch.float32, 5e-6)


@pytest.mark.parametrize("scale", [0.4, None])
@pytest.mark.parametrize("pattern", program.PATTERNS)
def test_backward_is_that_of_autograd(pattern, scale):
    """scale: None for that of the head dimension, D ** -0.5."""
    case = program.Case("auto", pattern, (2, "first"), padded=True, heads=2)
    given, asked = case.tensors(), case.asked({})
    asked = {name: asked[name] for name in ("grid", "pattern", "text", "key_lengths")} | {"scale": scale}
    inputs = [given[name].requires_grad_() for name in "qkv"]
    out, lse = attention(*inputs, return_lse=True, **asked)
    expected = torch.autograd.grad(out, inputs, given["dout"])
    q, k, v = (t.detach() for t in inputs)
    found = attention_backward(q, k, v, out.detach(), lse.detach(), given["dout"], **asked)
    for mine, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12)


def test_backward_refuses_what_does_not_fit():
    q = torch.randn(1, 4, 2, 8)
    lse = torch.zeros(1, 2, 4)
    for name, wrong in {
        "out": (q[:, :3], lse, q), "lse": (q, lse.transpose(1, 2), q), "dout": (q, lse, q[..., :4]),
        "dlse": (q, lse, q, lse[:, :1]),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            attention_backward(q, q, q, *wrong, pattern=Full())
