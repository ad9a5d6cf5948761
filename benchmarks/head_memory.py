"""Memory of the depth and motion heads at the shapes of published models, counted without computing anything.

    python -m phys4d.benchmarks.head_memory [--case NAME ...] [--width N] [--out DIR]

Both heads of each kind read one clip, in fp32, on torch's fake tensors, which have shapes and no data:

    read       without gradients: rollouts, evaluation, `phys4d generate`
    pretrain   forward and backward, gradients of the heads' weights
    finetune   forward and backward, gradients of the tapped tokens, too

Counted is the most that exists at once beyond weights, tapped tokens and latents; depth and motion, and the gradients
of everything, are in it. "whole" is what it would be without chunks (`phys4d.models.heads.chunks`). Temporary memory
inside an operator, such as the workspace of a convolution, is not seen.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.benchmarks import results
from phys4d.engine.costs.memory import Peak, uncollected
from phys4d.engine.run_folder.provenance import provenance
from phys4d.models.heads import GeometryHeads, HeadConfig, chunks
from phys4d.models.initial import nothing_drawn
from phys4d.models.interface import Grid

GIB = 2**30
KINDS, PASSES = ("linear", "conv", "dpt"), ("read", "pretrain", "finetune")
TAPS = 4


@dataclass(frozen=True)
class Case:
    """A clip as a published model sees it.

    model: its name. grid: sizes of the clip and the token stride. channels: of a token. latents: channels of the codec.
    """

    model: str
    grid: Grid
    channels: int
    latents: int

    @property
    def name(self) -> str:
        return f"{self.model} {self.grid.frames}x{self.grid.height}x{self.grid.width}"


CASES = {
    case.name: case
    for case in (
        Case("wan2.2-ti2v-5b", Grid(49, 480, 832, (4, 32, 32)), 3072, 48),
        Case("wan2.2-ti2v-5b", Grid(121, 704, 1280, (4, 32, 32)), 3072, 48),
        Case("cogvideox-5b", Grid(49, 480, 720, (4, 16, 16)), 3072, 16),
        Case("opensora-1.2", Grid(49, 480, 832, (4, 16, 16)), 1152, 4),
    )
}


def count(case: Case, config: HeadConfig, pass_: str, *, chunked: bool = True) -> dict[str, float]:
    """Millions of weights of both heads, and GiB of one pass."""
    with nothing_drawn(), torch.random.fork_rng(devices=[]):
        heads = GeometryHeads(config, case.channels, TAPS, case.latents, case.grid)
    t, h, w = case.grid.tokens
    hidden = tuple(torch.empty(1, t * h * w, case.channels) for _ in range(TAPS))
    for tokens in hidden:
        tokens.requires_grad_(pass_ == "finetune")
    noisy, sigma = torch.empty(1, case.latents, t, 2 * h, 2 * w), torch.empty(1)
    limit = chunks.PIXELS if chunked else 1 << 62
    given = [*heads.parameters(), *heads.buffers(), *hidden, noisy, sigma]
    trained = torch.set_grad_enabled(pass_ != "read")
    with trained, mock.patch.object(chunks, "PIXELS", limit), uncollected(), Peak(given) as peak:
        depth, motion = heads(hidden, noisy, sigma)
        if pass_ != "read":
            torch.autograd.backward([depth.mean() + motion.mean()])
    return {"weights_m": sum(p.numel() for p in heads.parameters()) / 1e6, "gib": peak.most / GIB}


def counted(case: Case, width: int) -> list[dict[str, Any]]:
    """One row per kind: GiB of each pass, and of `finetune` without chunks."""
    rows = []
    for kind in KINDS:
        config = HeadConfig(kind=kind, width=width)  # type: ignore[arg-type]
        row: dict[str, Any] = {"case": case.name, "kind": kind, "width": width}
        with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            for pass_ in PASSES:
                figures = count(case, config, pass_)
                row |= {"weights_m": figures["weights_m"], f"{pass_}_gib": figures["gib"]}
            row["whole_gib"] = count(case, config, "finetune", chunked=False)["gib"]
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: GiB per clip, kind of head and pass."""
    lines = ["| clip | heads | weights, M | read | pretrain | finetune | finetune, whole |", "|---" * 7 + "|"]
    for row in rows:
        cells = " | ".join(f"{row[key]:.2f}" for key in ("read_gib", "pretrain_gib", "finetune_gib", "whole_gib"))
        lines.append(f"| {row['case']} | {row['kind']}, {row['width']} | {row['weights_m']:.1f} | {cells} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page, with versions."""
    return f"{table(result['rows'])}\n\nGiB, counted with {results.version(result['provenance'])}."


def main() -> None:
    """Counts, prints the table, and with --out writes head-memory.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--width", type=int, default=128, help="channels at the latents' resolution (default: 128)")
    parser.add_argument("--out", type=Path, help="folder for head-memory.json")
    options = parser.parse_args()
    rows = [row for name in options.case for row in counted(CASES[name], options.width)]
    print(table(rows))
    if options.out is not None:
        results.write(options.out / "head-memory.json", {"rows": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
