"""The journal of an unfinished dataset: its recipe, and a row for each clip whose bytes are on the disk.

Several ranks may write one dataset, each to files of its own in one folder of unfinished files: a lock, a journal and
shards. Rank 0's have no number, so that one rank alone writes what it always wrote.
"""

import itertools
import json
import re
import zlib
from pathlib import Path
from typing import Any

from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder

LOCK = ".lock"
JOURNAL = "journal.jsonl"
_OF_A_RANK = re.compile(
    r"\.lock-(\d+)|journal-(\d+)\.jsonl(?:\.new)?|shard-(\d+)-\d{6}\.tar|\.?rank-(\d+)\.(?:alive|done)(?:\.partial)?"
)


def lock_name(rank: int) -> str:
    """The lock file of a rank."""
    return f"{LOCK}-{rank}" if rank else LOCK


def journal_name(rank: int) -> str:
    """The journal of a rank."""
    return f"journal-{rank}.jsonl" if rank else JOURNAL


def shard_name(rank: int, number: int) -> str:
    """A shard of a rank."""
    return f"shard-{rank}-{number:06d}.tar" if rank else f"shard-{number:06d}.tar"


def other_rank(name: str) -> int | None:
    """The rank above 0 that a file of an unfinished dataset belongs to; None for the files of rank 0."""
    found = _OF_A_RANK.fullmatch(name)
    return None if found is None else int(found[found.lastindex or 0])


def partial_folder(folder: Path) -> Path:
    """The hidden folder of a dataset that is being written."""
    return OutputFolder.of(folder).partial


def kept_rows(folder: Path, recipe: str, rank: int = 0) -> list[dict[str, Any]]:
    """Index rows of the complete clips in an unfinished dataset.

    folder: dataset folder.
    recipe: of the writer.
    rank: which wrote them.

    The journal ends for this at its first damaged line: the clips from there on are made again.

    Raises UserError if the dataset was begun with another recipe.
    """
    journal = partial_folder(folder) / journal_name(rank)
    if not journal.exists():
        return []
    lines = [_entry(text) for text in journal.read_bytes().split(b"\n")[:-1]]
    kept = list(itertools.takewhile(lambda entry: entry is not None, lines))
    if lines and (not kept or kept[0] != recipe):
        begun = f"begun with other settings ({kept[0]})" if kept else f"{journal.name} of its beginning is damaged"
        raise UserError(f"{folder}: {begun}: give the same ones again, or remove {journal.parent}")
    return kept[1:]


def ranks_that_wrote(folder: Path) -> list[int]:
    """The ranks above 0 that have a journal in an unfinished dataset."""
    found = (other_rank(path.name) for path in partial_folder(folder).glob("journal-*.jsonl"))
    return sorted(rank for rank in found if rank is not None)


def line(entry: Any) -> str:
    """A line of the journal: JSON and its CRC-32."""
    text = json.dumps(entry)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"


def _entry(text: bytes) -> Any:
    """The entry of a line without its end; None for one that is damaged."""
    content, _, checksum = text.rpartition(b"\t")
    return json.loads(content) if b"%08x" % zlib.crc32(content) == checksum else None
