"""FLOPs that torch's counter sees in attention: by hand, pair by pair, as torch counts its own, by any backend."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from phys4d.kernels.attention import (
    Full,
    Pattern,
    Spatial,
    Temporal,
    Window,
    allowed,
    attention,
    attention_backward,
    attention_packed,
)
from phys4d.kernels.attention import ops as operators
from phys4d.kernels.attention.backends import BACKENDS, Backend
from phys4d.kernels.attention.flops import seen_pairs
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
from phys4d.kernels.dispatch import INTERPRETED

GRID = (3, 2, 4)  # 24 cells
PATTERNS = [
    Full(), Full(causal=True), Spatial(), Temporal(), Temporal(causal=True), Window(2, 2, 3), Window(3, 1, 1),
]  # fmt: skip
TEXTS: list[Any] = [None, (5, "first"), (5, "last")]
FORWARD, BACKWARD = torch.ops.phys4d.attention, torch.ops.phys4d.attention_backward


def counts(counter: FlopCounterMode) -> dict[Any, int]:
    return counter.get_flop_counts().get("Global", {})


def operator(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, grid: Any, text: Any) -> Tensor:
    """out of the operator itself, whatever backend `attention` would take."""
    where = operators.flat_pattern(pattern, grid, text)
    return operators.attention_call(q, k, v, *where, None, None, q.shape[-1] ** -0.5, False, *NO_TRANSFORM)[0]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_pairs_are_those_of_the_mask(pattern: Pattern, text: Any) -> None:
    mask = allowed(pattern, GRID, text)
    assert seen_pairs(pattern, GRID, text, *mask.shape) == int(mask.sum())


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (6, 4), (4, 6), (1, 5)])
def test_a_causal_row_without_a_grid_and_cross_attention(queries: int, keys: int) -> None:
    seen = torch.ones(queries, keys).tril().sum()
    assert seen_pairs(Full(causal=True), None, None, queries, keys) == int(seen)
    assert seen_pairs(Full(), None, None, queries, keys) == queries * keys


@pytest.mark.parametrize("device", ["cpu", "meta", "fake"])
@pytest.mark.parametrize(
    ("pattern", "text", "pairs"),
    [
        (Full(), None, 24 * 24),
        (Full(), (5, "last"), 29 * 29),
        (Full(causal=True), (5, "first"), 5 * 29 + 24 * 5 + 24 * 25 // 2),
        (Spatial(), (5, "last"), 5 * 29 + 24 * 5 + 3 * 8 * 8),
        (Temporal(), None, 8 * 3 * 3),
        (Temporal(causal=True), None, 8 * 6),
        (Window(2, 2, 3), (5, "first"), 5 * 29 + 24 * 5 + 24 * 12),
    ],
    ids=str,
)  # fmt: skip
def test_the_operator_counts_by_hand(pattern: Pattern, text: Any, pairs: int, device: str) -> None:
    """Two clips, three heads, eight channels: forward two products of 2 x 8 a pair, backward five."""
    tokens = 24 + (text[0] if text else 0)
    place = {} if device == "fake" else {"device": device}
    with FakeTensorMode() if device == "fake" else nullcontext():
        q, k, v = (torch.randn(2, tokens, 3, 8, **place, requires_grad=True) for _ in range(3))
        with FlopCounterMode(display=False) as counter:
            operator(q, k, v, pattern, GRID, text).sum().backward()
    assert counts(counter) == {FORWARD: 2 * 3 * pairs * 2 * 2 * 8, BACKWARD: 2 * 3 * pairs * 5 * 2 * 8}


def test_cross_attention_with_shared_keys_counts_as_torch_does() -> None:
    """Twice as many heads of queries as of keys, more keys than queries, values of another width."""
    q = torch.randn(2, 6, 4, 8, requires_grad=True)
    k, v = torch.randn(2, 10, 2, 8, requires_grad=True), torch.randn(2, 10, 2, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        operator(q, k, v, Full(), None, None).sum().backward()
    shapes = (2, 4, 6, 8), (2, 4, 10, 8), (2, 4, 10, 16)  # heads of keys repeated: torch 2.11 knows no shared ones
    assert counts(counter)[FORWARD] == sdpa_flop_count(*shapes)
    assert counts(counter)[BACKWARD] == sdpa_backward_flop_count((2, 4, 6, 16), *shapes)


def test_full_attention_counts_what_torch_counts_of_its_own() -> None:
    q, k, v = (torch.empty(2, 24, 3, 8, device="meta") for _ in range(3))
    with FlopCounterMode(display=False) as ours:
        operator(q, k, v, Full(), None, None)
    with FlopCounterMode(display=False) as torchs:
        F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    assert ours.get_total_flops() == torchs.get_total_flops() > 0


def test_packed_attention_counts_as_its_parts() -> None:
    qkv = torch.randn(2, 24, 3, 3, 8, requires_grad=True)
    where = operators.flat_pattern(Spatial(), GRID, None)
    with FlopCounterMode(display=False) as counter:
        packed = torch.ops.phys4d.attention_packed(qkv, *where, None, None, 1.0, False, *NO_TRANSFORM)[0]
        packed.sum().backward()
    ops = torch.ops.phys4d
    whole = {ops.attention_packed: 6 * 3 * 64 * 32, ops.attention_packed_backward: 6 * 3 * 64 * 80}
    assert counts(counter) == whole, "the parts were counted beside the whole"
    assert attention_packed(qkv, grid=GRID, pattern=Spatial()).shape == (2, 24, 3, 8)


@pytest.mark.skipif(INTERPRETED, reason="without a CPU kernel the definition computes, as plain products")
def test_the_gradients_of_a_block_are_one_operator() -> None:
    """As the ring needs them; by plain products of the definition they would not be known as attention's."""
    q, k, v, dout = (torch.randn(1, 6, 2, 8) for _ in range(4))
    out, lse = attention(q, k, v, return_lse=True)
    with FlopCounterMode(display=False) as counter:
        attention_backward(q, k, v, out, lse, dout)
    assert counts(counter) == {BACKWARD: 2 * 36 * 5 * 2 * 8}


def test_a_backend_outside_of_the_dispatcher_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward once, backward once where a gradient passes; without a counter nothing is added to the graph."""

    def run(call: Any) -> tuple[Tensor, None]:
        with torch.utils._python_dispatch._disable_current_modes():
            return call.v.detach().clone().requires_grad_(call.training), None

    outside = Backend("outside", "", lambda call: None, run, dispatched=False)
    monkeypatch.setitem(BACKENDS, "outside", outside)
    q = torch.randn(2, 24, 3, 8, requires_grad=True)
    asked: dict[str, Any] = {"grid": GRID, "pattern": Temporal(), "backend": "outside"}
    with FlopCounterMode(display=False) as counter:
        out = attention(q, q, q, **asked)
        assert counts(counter) == {FORWARD: 6 * 72 * 32}
        out.sum().backward()
    assert counts(counter) == {FORWARD: 6 * 72 * 32, BACKWARD: 6 * 72 * 80}
    assert attention(q, q, q, **asked).grad_fn is None


def test_every_operator_with_products_has_a_formula() -> None:
    """Operators of this package by name: attention counts, all others multiply no matrices."""
    ours = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "phys4d::" in name}
    counted = {name for name in ours if getattr(torch.ops.phys4d, name) in flop_registry}
    assert counted == {name for name in ours if name.startswith("attention")}
    assert len(counted) == 5


def test_ranks_count_their_share(tmp_path: Path) -> None:
    """Two ranks together count what one process does: 4 heads, 30 tokens that divide, D = 8. Under Ulysses the gradient
    is here torch's of the definition, of four products."""
    program = Path(__file__).with_name("flops_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shares = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert shares[0] == shares[1]
    pairs = 4 * 30 * 30
    assert {name: 2 * share for name, share in shares[0].items()} == {
        "ulysses": pairs * 4 * 8, "ulysses backward": pairs * 4 * 2 * 8,
        "ring": pairs * 4 * 8, "ring backward": pairs * 5 * 2 * 8,
    }  # fmt: skip
