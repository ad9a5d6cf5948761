"""How much of a simulated dataset moves until the end of its clips, and how many samples were rejected before them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phys4d.engine.data.clip import blob
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.engine.progress import progress
from phys4d.simulation.smoke.smoke_volume import CLEAR

LAST = 0.75  # of a clip, after which its last quarter begins
SEEN = 1e-3  # of a frame's pixels that must move


@dataclass
class Activity:
    """Counts of the clips of a category. clips: their number. late: those in whose last quarter something moves.
    dropped: samples before them for which the simulator failed. redrawn: samples whose event was not visible.
    """

    clips: int = 0
    late: int = 0
    dropped: int = 0
    redrawn: int = 0

    def add(self, other: "Activity") -> None:
        """Adds the counts of other clips."""
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)

    def cells(self) -> tuple[str, ...]:
        """Clips, share that moves late, draws, dropped, drawn again, as text."""
        draws = self.clips + self.dropped + self.redrawn
        shares = f"{self.late / self.clips:.0%}", f"{self.dropped / draws:.1%}", f"{self.redrawn / draws:.1%}"
        return str(self.clips), shares[0], str(draws), *shares[1:]


def activity(folder: Location | str) -> dict[str, Activity]:
    """Counts by category, and of all clips as "all"; reads the motion of every clip.

    folder: of a dataset of `phys4d simulate`. Raises UserError for clips of other programs or without truth.
    """
    dataset = ClipDataset(folder)
    found: dict[str, Activity] = defaultdict(Activity)
    with progress("data motion", total=len(dataset), unit="clips") as bar:
        for number in range(len(dataset)):
            row, meta = dataset.row(number), dataset.meta(number)
            counts = meta.get("provenance", {})
            if "truth" not in row["members"] or "redrawn" not in counts:
                raise UserError(f"{folder}: clip {row['key']} holds no truth of phys4d simulate: give such a dataset")
            entries = blob.header(truth := dataset.member(row, "truth"))
            arrays = blob.decode(truth, [name for name in ("moving", "opacity") if name in entries])
            mine = Activity(
                1, int(moves_late(arrays["moving"], arrays.get("opacity"))), sum(counts["dropped"].values()),
                sum(counts["redrawn"].values()),
            )  # fmt: skip
            for name in (meta["category"], "all"):
                found[name].add(mine)
            bar.advance(1)
    return {name: found[name] for name in sorted(found, key=lambda name: (name == "all", name))}


def moves_late(moving: np.ndarray, opacity: np.ndarray | None = None) -> bool:
    """Whether a frame of the last quarter moves in SEEN of its pixels, or its smoke changes there.

    moving: bool [T-1, H, W], from frame t to t + 1. opacity: uint8 [T, H, W] of smoke, None for none.
    """
    changes = moving
    if opacity is not None:
        changes = moving | (np.abs(np.diff(opacity.astype(np.int16), axis=0)) > 255 * CLEAR)
    last = changes[int(LAST * len(changes)) :]
    return bool(last.mean(axis=(1, 2)).max(initial=0) >= SEEN)


def lines(found: dict[str, Activity]) -> Sequence[str]:
    """A table in Markdown."""
    head = ("category", "clips", "move in their last quarter", "draws", "dropped", "drawn again")
    rows = [head, ("---",) * len(head), *((name, *counts.cells()) for name, counts in found.items())]
    return ["| " + " | ".join(row) + " |" for row in rows]
