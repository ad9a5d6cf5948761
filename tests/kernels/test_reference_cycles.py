"""No call leaves tensors in reference cycles, which would hold their memory until Python's garbage collector runs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from phys4d.kernels.attention import Full, Pattern, Spatial, Temporal, Window, attention, attention_packed
from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.elementwise import QKNorm, Rope, TokenRows, adaptive_norm, qk_norm_rope
from phys4d.kernels.geometry import chamfer, depth_loss, flow_loss, flow_warp, splat, unproject, warp_consistency

GRID = (3, 2, 4)
GAUGE = torch.Generator().manual_seed(0)


class Alive(TorchDispatchMode):
    """Counts the storages that operators have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.storages = weakref.WeakSet[Any]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:  # a view makes none
                self.storages.add(tensor.untyped_storage())
        return made


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GAUGE)


def left_alive(call: Callable[..., Any], leaves: list[Tensor], backward: bool) -> int:
    """Storages that outlive the call: of its inputs, which are made for it from the leaves, of its results and of its
    gradients."""
    for leaf in leaves:
        leaf.requires_grad_(backward)
    with Alive():
        call(*leaves)  # what is made once and kept, also by torch
    with Alive() as alive:
        outs = tree_leaves(call(*(leaf * 1 for leaf in leaves)))
        found = [t for t in outs if isinstance(t, Tensor) and t.is_floating_point()]
        if backward:
            torch.autograd.grad(sum(t.square().sum() for t in found if t.requires_grad), leaves, allow_unused=True)
        del outs, found
    return len(alive.storages)


def _calls() -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    q, k, v = (numbers(2, 24, 2, 8) for _ in range(3))
    norm = QKNorm("rms", torch.ones(8), torch.ones(8))
    rope = Rope.make(GRID, (4, 2, 2))
    calls: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {}
    patterns: list[Pattern] = [Full(), Spatial(), Temporal(), Window(2, 2, 3)]
    for name in ("reference", "sdpa"):
        assert name in BACKENDS
        for pattern in patterns:
            for lengths in (None, torch.tensor([24, 5])):

                def call(q: Tensor, k: Tensor, v: Tensor, name=name, pattern=pattern, lengths=lengths) -> Any:
                    return attention(q, k, v, grid=GRID, pattern=pattern, key_lengths=lengths, backend=name)

                calls[f"attention {name} {pattern} {'padded' if lengths is not None else 'whole'}"] = (call, [q, k, v])
    calls["attention norm rope"] = (lambda q, k, v: attention(q, k, v, grid=GRID, qk_norm=norm, rope=rope), [q, k, v])
    calls["attention_packed"] = (lambda x: attention_packed(x, grid=GRID, qk_norm=norm), [numbers(2, 24, 3, 2, 8)])
    calls["qk_norm_rope"] = (lambda q, k: qk_norm_rope(q, k, norm, rope, grid=GRID), [q, k])
    x, y, table = numbers(2, 24, 16), numbers(2, 24, 16), numbers(2, 16)
    rows = TokenRows.of(torch.randint(0, 2, (2, 24), generator=GAUGE), 2)
    calls["adaptive_norm"] = (lambda x, y, t: adaptive_norm(x, y, gate=t, scale=t, shift=t), [x, y, table])
    calls["adaptive_norm rows"] = (lambda x, y, t: adaptive_norm(x, y, gate=t, scale=t, rows=rows), [x, y, table])
    depth, motion = 1 + numbers(1, 3, 8, 8).abs(), 0.1 * numbers(1, 3, 2, 8, 8)
    mask, pairs = torch.ones(1, 3, 8, 8, dtype=torch.bool), torch.ones(1, 2, 8, 8, dtype=torch.bool)
    camera = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]).expand(1, 3, 3, 3)
    calls["depth_loss"] = (lambda d: depth_loss(d, 2 * depth, mask), [depth.clone()])
    calls["flow_loss"] = (lambda m: flow_loss(m, 2 * motion[:, :2], pairs), [motion[:, :2].clone()])
    calls["warp_consistency"] = (lambda d, m: warp_consistency(d, m, pairs), [depth.clone(), motion.clone()])
    calls["flow_warp"] = (lambda x, f: flow_warp(x, f), [numbers(1, 2, 2, 8, 8), motion[:, :2].clone()])
    calls["splat"] = (lambda x, f: splat(x, f, depth[:, :2]), [numbers(1, 2, 2, 8, 8), motion[:, :2].clone()])
    calls["unproject"] = (lambda d: unproject(d, camera), [depth.clone()])
    calls["chamfer"] = (lambda x, y: chamfer(x, y), [numbers(2, 30, 3), numbers(2, 20, 3)])
    return calls


CALLS = _calls()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_nothing_alive(name: str, backward: bool) -> None:
    call, leaves = CALLS[name]
    assert left_alive(call, [leaf.detach().clone() for leaf in leaves], backward) == 0


@pytest.mark.usefixtures("uncollected")
def test_a_cycle_is_seen() -> None:
    """A function that is defined in the call and calls itself holds what it refers to."""

    def call(x: Tensor) -> Tensor:
        doubled = x * 2

        def halve(n: int) -> Tensor:
            return halve(n - 1) if n else doubled / 2

        return halve(2)

    assert left_alive(call, [numbers(4)], backward=False) == 1
