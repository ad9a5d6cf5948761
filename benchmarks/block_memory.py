"""How much memory whole blocks of video DiTs take at their real shapes, counted without computing anything.

    python -m phys4d.benchmarks.block_memory [--case NAME ...] [--adopt]

A block runs forward and backward on tensors that have shapes and no numbers (torch's fake tensors), as `phys4d bench
blocks` runs it, one variant after the other. "kept" is what autograd keeps between forward and backward, beyond weights
and inputs; "peak" is the most that exists at once in a training step, beyond weights and inputs, gradients included.
What operators take inside, for as long as they run, is not seen: it is small in fused ones.
"""

import argparse
import gc
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from phys4d.benchmarks import blocks
from phys4d.benchmarks.blocks import Variant
from phys4d.benchmarks.cases import BLOCKS, DTYPE, BlockCase

RESULT = Path(__file__).resolve().parent / "results" / "block-memory.json"
MIB = 2**20


class Peak(TorchDispatchMode):
    """Counts bytes of all storages that operators make while it is on, as long as they live."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.most = 0
        self.seen = weakref.WeakKeyDictionary[Any, None]()
        for tensor in known:
            self.seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        self.seen[storage] = None
        size = storage.nbytes()
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.live -= size


@contextmanager
def uncollected() -> Iterator[None]:
    """What is held in a circle stays until the end, so that no moment of the garbage collector changes a count."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def kept(variant: Variant) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, beyond parameters and inputs."""
    held: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage._cdata] = storage
        return tensor

    with uncollected(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outs = variant.outs()
    for tensor in _given(variant):
        held.pop(tensor.untyped_storage()._cdata, None)
    assert outs
    return sum(storage.nbytes() for storage in held.values())


def peak(variant: Variant) -> int:
    """Bytes of a training step at most, beyond parameters, inputs and the gradients that it begins with."""
    with torch.no_grad():
        gradients = tuple(torch.empty_like(out) for out in variant.outs())
    with uncollected(), Peak([*_given(variant), *gradients]) as counted:
        variant.step(gradients)
    return counted.most


def _given(variant: Variant) -> list[Tensor]:
    beside = (t for t in tree_leaves(variant.rest) if isinstance(t, Tensor))
    return [*variant.parameters, *variant.inputs.values(), *beside]


def of(case: BlockCase) -> list[dict[str, Any]]:
    """One row per variant of the block, on the tensors that the current mode makes."""
    rows = []
    for name, variant in blocks.variants(case, torch.device("cpu"), DTYPE).items():
        rows.append({
            "case": case.name, "tokens": case.tokens, "backend": name, "kept_mb": kept(variant) / MIB,
            "peak_mb": peak(variant) / MIB,
        })  # fmt: skip
    return rows


def counted(case: BlockCase) -> list[dict[str, Any]]:
    """The same on tensors without numbers."""
    one_mode = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)  # of all copies
    alike = mock.patch.object(torch, "equal", lambda *tensors: True)  # drop-ins compare tables: no numbers are there
    with FakeTensorMode(), one_mode, alike, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        return of(case)


def table(rows: list[dict[str, Any]]) -> str:
    """Per block and variant GiB kept and at most, and how much of the stock block's that is."""
    lines = ["| block | tokens | variant | kept GiB | of stock | peak GiB | of stock |", "|---" * 7 + "|"]
    for row in rows:
        stock = next(r for r in rows if (r["case"], r["backend"]) == (row["case"], "stock"))
        cells = (f"{row[key] / 1024:.2f} | {row[key] / stock[key]:.0%}" for key in ("kept_mb", "peak_mb"))
        lines.append(f"| {row['case']} | {row['tokens']:,} | {row['backend']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Counts, prints, and with --adopt keeps the result and shows it in the docs."""
    names = [case.name for case in BLOCKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=names, choices=names)
    parser.add_argument("--adopt", action="store_true", help="keep the result, and fill the table of its page in docs/")
    asked = parser.parse_args()
    rows = [row for case in BLOCKS if case.name in asked.case for row in counted(case)]
    print(table(rows))
    if asked.adopt:
        from phys4d.benchmarks import elementwise_page

        elementwise_page.adopt(RESULT, rows)


if __name__ == "__main__":
    main()
