"""Reads a whole cache and says what is wrong with it."""

from pathlib import Path

import torch

from phys4d.caches.card import read_card
from phys4d.caches.packing import LATENTS, TEXT
from phys4d.caches.read import read_tensor
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.progress import progress


def verify_cache(folder: Path) -> list[str]:
    """One line for each problem, with shard and key; [] if the cache is sound.

    Checked: size and SHA-256 of card, index and every member; dtype and shape of every tensor, and that its values are
    finite. Raises UserError if card or index cannot be used, and MachineFault if the machine failed.
    """
    card, entries = read_card(folder), ClipDataset(folder, arrays=())
    problems: list[str] = []
    with progress("verify", total=len(entries), unit="clips") as bar:
        for index in range(len(entries)):
            row = entries.row(index)
            for name in (LATENTS, TEXT):
                try:
                    if not torch.isfinite(read_tensor(entries, row, name, card)).all():
                        problems.append(f"{row['shard']}: clip {row['key']}: {name} are not finite")
                except ClipFault as fault:
                    problems.append(fault.brief)
            bar.advance(1, problems=len(problems))
    return problems
