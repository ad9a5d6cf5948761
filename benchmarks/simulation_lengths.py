"""Clips of every family at several lengths: what was refused, dropped, drawn again, and moves in its last quarter.

    phys4d simulate --out FOLDER --category all --clips 63 --frames 81 --fps 24 --size 128 --seed 4242 --on-refused skip
    python -m phys4d.benchmarks.simulation_lengths FOLDER ... --clips 63 --out DIR

Counts the clips of finished datasets that were made by the first command at other lengths. Rows of the same length in
DIR/lengths.json are replaced.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.provenance import provenance
from phys4d.simulation.activity import activity
from phys4d.simulation.categories import CATEGORIES, FAMILIES
from phys4d.simulation.generate import SimulateConfig, key


def counts(folder: Path, clips: int) -> dict[str, Any]:
    """Length, and counts of the clips of a dataset of all categories in turn.

    folder: a finished dataset. clips: number that was asked for; those that are not there were refused.

    Raises UserError if the dataset is of other settings than the first command in this file's docstring.
    """
    dataset, asked = ClipDataset(folder), SimulateConfig(categories=tuple(CATEGORIES), clips=clips)
    rows = {dataset.row(number)["key"]: number for number in range(len(dataset))}
    first = dataset.row(0)
    refused = []
    for index in range(clips):
        number, family = rows.pop(key(index), None), asked.family(index)
        if number is None:
            refused.append(family)
        elif dataset.meta(number)["family"] != family:
            raise UserError(f"{folder}: clip {key(index)} is not of family {family}: simulate with --category all")
    if rows:
        raise UserError(f"{folder}: clip {next(iter(rows))} was not asked for: give the number of --clips of simulate")
    found = activity(folder)["all"]
    drawn = len({asked.family(index) for index in range(clips)} - set(refused))
    return {
        "frames": first["frames"], "fps": first["fps"], "size": [first["height"], first["width"]], "asked": clips,
        "refused": sorted(refused), "families": drawn, **vars(found),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Markdown: a line for each length."""
    head = ("frames at fps", "seconds", "clips", "families", "refused", "dropped", "drawn again", "move at the end")
    lines = [head, ("---",) * len(head)]
    for row in found["rows"]:
        draws = row["clips"] + row["dropped"] + row["redrawn"]
        lines.append((
            f"{row['frames']} at {row['fps']:g}", f"{row['frames'] / row['fps']:.1f}", str(row["clips"]),
            f"{row['families']} of {len(FAMILIES)}", ", ".join(row["refused"]) or "none",
            f"{row['dropped'] / draws:.1%}", f"{row['redrawn'] / draws:.1%}", f"{row['late'] / row['clips']:.0%}",
        ))  # fmt: skip
    revisions = dict.fromkeys(str(row["provenance"]["git_revision"])[:12] for row in found["rows"])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\nRevision {', '.join(revisions)}."


def main() -> None:
    """Counts, prints the table, and with --out merges the rows into lengths.json there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, required=True, help="that were asked for, refused ones included")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [counts(folder, options.clips) | {"provenance": provenance()} for folder in options.folder]
    file = None if options.out is None else options.out / "lengths.json"
    if file is not None and file.exists():
        fresh = {(row["frames"], row["fps"]) for row in rows}
        rows += [row for row in json.loads(file.read_text())["rows"] if (row["frames"], row["fps"]) not in fresh]
    found = {"kind": "lengths", "rows": sorted(rows, key=lambda row: (row["frames"], row["fps"]))}
    print(table(found))
    if file is not None:
        results.write(file, found)


if __name__ == "__main__":
    main()
