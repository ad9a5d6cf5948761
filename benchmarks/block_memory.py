"""Memory of whole blocks of video DiTs at their real shapes, counted without computing anything.

    python -m phys4d.benchmarks.block_memory [--case NAME ...] [--out DIR]

A block runs forward and backward on torch's fake tensors, which have shapes and no data, as `phys4d bench blocks` runs
it. "kept" is the memory that autograd holds between forward and backward, without weights and inputs; "peak" is the
maximum of live memory in a training step, without weights and inputs, with gradients. Temporary memory inside an
operator is not counted; in fused operators it is small.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from phys4d.benchmarks import blocks, results
from phys4d.benchmarks.blocks import Variant
from phys4d.benchmarks.cases import BLOCKS, DTYPE, BlockCase
from phys4d.engine.costs.memory import Peak, uncollected
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.integrate.diffusers import rotation

MIB = 2**20


def kept(variant: Variant) -> int:
    """Bytes that autograd holds after a forward pass, each storage once, without parameters and inputs."""
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
    """The maximum of live bytes in a training step, without parameters, inputs and the gradients of the results."""
    with torch.no_grad():
        gradients = tuple(torch.empty_like(out) for out in variant.outs())
    with uncollected(), Peak([*_given(variant), *gradients]) as counted:
        variant.step(gradients)
    return counted.most


def _given(variant: Variant) -> list[Tensor]:
    beside = (t for t in tree_leaves(variant.rest) if isinstance(t, Tensor))
    return [*variant.parameters, *variant.inputs.values(), *beside]


def of(case: BlockCase) -> list[dict[str, Any]]:
    """One row per variant of the block, on real tensors, or on fake ones inside a `FakeTensorMode`."""
    rows = []
    for name, variant in blocks.variants(case, torch.device("cpu"), DTYPE).items():
        rows.append({
            "case": case.name, "tokens": case.tokens, "backend": name, "kept_mb": kept(variant) / MIB,
            "peak_mb": peak(variant) / MIB,
        })  # fmt: skip
    return rows


def counted(case: BlockCase) -> list[dict[str, Any]]:
    """The rows of `of` on fake tensors."""
    # Deep copies of a block share one mode. Drop-ins make the rotation table of fake tensors anew in every call, since
    # these belong to what is being recorded; that of real ones once for a forward and backward pass.
    one_mode = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)
    made_once = mock.patch.object(rotation, "_must_not_be_kept", lambda cosine, sine: False)
    with FakeTensorMode(), one_mode, made_once, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        return of(case)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per block and variant GiB kept and peak GiB, and their share of the stock block's."""
    lines = ["| block | tokens | variant | kept GiB | of stock | peak GiB | of stock |", "|---" * 7 + "|"]
    for row in rows:
        stock = next(r for r in rows if (r["case"], r["backend"]) == (row["case"], "stock"))
        cells = (f"{row[key] / 1024:.2f} | {row[key] / stock[key]:.0%}" for key in ("kept_mb", "peak_mb"))
        lines.append(f"| {row['case']} | {row['tokens']:,} | {row['backend']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page, with versions."""
    return f"{table(result['rows'])}\n\nCounted with {results.version(result['provenance'])}."


def sentence(result: dict[str, Any]) -> str:
    """The memory that a block of Wan2.2-TI2V-5B keeps, for the README."""
    kept = {row["backend"]: row["kept_mb"] / 1024 for row in result["rows"] if row["case"] == "wan-block"}
    return (
        f"Counted, not measured: in training a block of Wan2.2-TI2V-5B at 121 frames of 704 x 1280 keeps "
        f"{kept['stock']:.1f} GiB for the\nbackward pass with diffusers' code and {kept[blocks.BY_FRAME]:.1f} GiB with "
        "ours ([all blocks](docs/elementwise-kernels.md#memory-of-whole-blocks))."
    )


def main() -> None:
    """Counts, prints the table, and with --out writes block-memory.json to that folder."""
    names = [case.name for case in BLOCKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=names, choices=names)
    parser.add_argument("--out", type=Path, help="folder for block-memory.json")
    options = parser.parse_args()
    rows = [row for case in BLOCKS if case.name in options.case for row in counted(case)]
    print(table(rows))
    if options.out is not None:
        results.write(options.out / "block-memory.json", {"rows": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
