"""Memory of `phys4d generate` for published models, counted without weights and without a GPU.

    python -m phys4d.benchmarks.generation_memory [--case NAME ...] [--out DIR]

Each case writes a file of its own, since counting one takes minutes on a busy machine.

One clip in bf16, as `phys4d generate --dry-run` counts it: bytes of weights, and the most that exists at once on the
device with each value of --offload, and with --offload parts and --vae-tiling where the autoencoder has it. A
card of 24 GB has 22.35 GiB, of which a GiB is left to the driver and to the gaps of the allocator.
"""

import argparse
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.provenance import provenance
from phys4d.generate.memory import GIB, Memory, count_memory

CASES = (
    ("wan2.2-ti2v-5b", (49, 480, 832)), ("wan2.1-t2v-1.3b", (49, 480, 832)), ("cogvideox-5b", (49, 480, 720)),
    ("opensora-1.2", (49, 480, 848)), ("wan2.2-ti2v-5b", (121, 704, 1280)), ("wan2.1-i2v-14b-720p", (81, 720, 1280)),
)  # fmt: skip
FOLDER = "generation-memory"
OFFLOADS = ("none", "parts", "blocks")
PARTS = ("text", "transformer", "codec", "evaluate", "encode", "decode")
CARD = 24e9 / GIB - 1  # GiB of a card of 24 GB that a clip may take


def name_of(model: str, clip: tuple[int, int, int]) -> str:
    """Model and size of the clip, as --case and the table name them."""
    return f"{model} {'x'.join(map(str, clip))}"


def counted(model: str, clip: tuple[int, int, int]) -> dict[str, Any]:
    """One row: GiB of each part, the most at once by --offload, and "tiled" with "parts" and --vae-tiling, or None."""
    frames, height, width = clip
    _, memory = count_memory(model, frames, (height, width), "bf16", tiled=False)
    row: dict[str, Any] = {"case": name_of(model, clip)}
    row |= {part: getattr(memory, part) / GIB for part in PARTS}
    row |= {f"offload {offload}": memory.most(offload) / GIB for offload in OFFLOADS}
    try:
        tiles: Memory | None = count_memory(model, frames, (height, width), "bf16", tiled=True)[1]
    except UserError:  # its autoencoder decodes whole frames alone
        tiles = None
    return row | {"tiled": None if tiles is None else tiles.most("parts") / GIB}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each case; the last column names the least change with which 24 GB hold the clip."""
    header = ["clip", "text encoder", "transformer", "beside it", "autoencoder", "encoding", "decoding"]
    header += [*(f"`--offload {name}`" for name in OFFLOADS), "`parts`, `--vae-tiling`", "24 GB"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [row[part] for part in ("text", "transformer", "evaluate", "codec", "encode", "decode")]
        cells += [row[f"offload {name}"] for name in OFFLOADS] + [row["tiled"]]
        figures = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        lines.append(f"| {' | '.join([row['case'], *figures, fits(row)])} |")
    return "\n".join(lines)


def fits(row: dict[str, Any]) -> str:
    """The least change with which a card of 24 GB takes a row's clip, "no" where there is none."""
    ways = [("yes", row["offload none"]), ("`parts`", row["offload parts"])]
    ways += [("`parts`, `--vae-tiling`", row["tiled"])] if row["tiled"] is not None else []
    ways += [("`blocks`", row["offload blocks"])]
    return next((name for name, gib in ways if gib <= CARD), "no")


def sources() -> tuple[str, ...]:
    """Files of all cases, below the folder of results."""
    return tuple(f"{FOLDER}/{name_of(*case).replace(' ', '-')}.json" for case in CASES)


def summary(*found: dict[str, Any]) -> str:
    """The table of the page, from the results of all cases, with versions."""
    rows = [result["row"] for result in found]
    return f"{table(rows)}\n\nGiB, counted with {results.version(found[0]['provenance'])}."


def main() -> None:
    """Counts, prints the table, and with --out writes generation-memory/CASE.json below that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {name_of(model, clip): (model, clip) for model, clip in CASES}
    parser.add_argument("--case", nargs="+", default=list(names), choices=list(names))
    parser.add_argument("--out", type=Path, help="folder of results")
    options = parser.parse_args()
    files = dict(zip(names, sources(), strict=True))
    for name in options.case:
        row = counted(*names[name])
        print(table([row]), flush=True)
        if options.out is not None:
            results.write(options.out / files[name], {"row": row, "provenance": provenance()})


if __name__ == "__main__":
    main()
