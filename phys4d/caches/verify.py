"""Reads a whole cache and says what is wrong with it."""

from pathlib import Path

import torch

from phys4d.caches.card import read_card
from phys4d.caches.packing import LATENTS, NO_CAPTION, TEXT
from phys4d.caches.read import read_no_caption, read_tensor
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.stream import stream
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress


def verify_cache(folder: Path, *, workers: int = 1) -> list[str]:
    """One line for each problem, with shard and key, in the order of the clips; [] if the cache is sound.

    Checked: size and digest of card, index, tokens of an empty caption and every member; dtype and shape of every
    tensor, and that its values are finite.

    Raises UserError if card or index cannot be used, and MachineFault if the machine failed.

    folder: of the cache. workers: threads, each of which holds one clip in memory.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    checked = _Checked(folder)
    none = read_no_caption(folder, checked.card)
    problems = [f"{NO_CAPTION}: is not finite"] if none is not None and not torch.isfinite(none).all() else []
    found = stream(checked, ([index] for index in range(len(checked))), threads=workers, prefetch=workers)
    with progress("verify", total=len(checked), unit="clips") as bar:
        for (lines,) in found:
            problems += lines
            bar.advance(1, problems=len(problems))
    return problems


class _Checked:
    """The problems of clips by their index."""

    def __init__(self, folder: Path) -> None:
        self.card, self.entries = read_card(folder), ClipDataset(folder, arrays=())

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> list[str]:
        row, problems = self.entries.row(index), []
        for name in (LATENTS, TEXT):
            try:
                if not torch.isfinite(read_tensor(self.entries, row, name, self.card)).all():
                    problems.append(f"{row['shard']}: clip {row['key']}: {name} are not finite")
            except ClipFault as fault:
                problems.append(fault.brief)
        return problems
