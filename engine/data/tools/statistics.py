"""What a dataset holds, from its index alone: clips, frames, sizes, categories, captions, seconds and bytes."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phys4d.engine.data.files.clip_index import ClipIndex
from phys4d.engine.data.files.columns import TEXTS
from phys4d.engine.errors import UserError

_BINS = 8
_LISTED = 10  # values of a column that are named; the others are counted together


@dataclass
class Statistics:
    """Numbers of a dataset. clips, shards, frames, seconds: of all clips together. members: bytes by name.

    counts: title -> (value, number of clips) of the values of a column, or of ranges of them, in the order of a table.
    """

    clips: int
    shards: int
    frames: int
    seconds: float
    members: dict[str, int]
    counts: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table for people."""
        total = sum(self.members.values())
        parts = ", ".join(f"{name} {readable(size)}" for name, size in self.members.items())
        head = [
            f"{self.clips} clips in {self.shards} shards",
            f"{self.frames} frames, {self.seconds:.1f} s ({self.seconds / 3600:.2f} h)",
            f"{readable(total)}: {parts}",
        ]
        for title, values in self.counts.items():
            wide = max(len(value) for value, _ in values)
            head += ["", title]
            head += [f"  {value:<{wide}}  {count:>9}  {count / self.clips:6.1%}" for value, count in values]
        return head


def statistics(index: ClipIndex) -> Statistics:
    """The numbers of the clips of an index. Raises UserError if it holds no clip."""
    if not len(index):
        raise UserError(f"{index.folder}: holds no clips")
    frames, fps, height, width = (index.column(name) for name in ("frames", "fps", "height", "width"))
    seconds = pc.divide(frames.cast(pa.float64()), fps)
    found = Statistics(
        clips=len(index),
        shards=pc.count_distinct(index.column("shard")).as_py(),
        frames=pc.sum(frames.cast(pa.int64())).as_py(),
        seconds=pc.sum(seconds).as_py(),
        members=index.member_bytes(),
    )
    sizes = pc.binary_join_element_wise(height.cast(pa.string()), width.cast(pa.string()), "x")
    found.counts = {
        "height x width, px": _values(sizes),
        "frames of a clip": _values(frames),
        "frames a second": _values(fps),
        "seconds of a clip": _ranges(seconds.to_numpy(), whole=False),
    }
    texts = index.texts()
    for name in ("category", "family", "source", "depth_kind", "seed"):
        if (values := _values(texts.column(name).combine_chunks())) != [("not stated", len(index))]:
            found.counts[name.replace("depth_kind", "kind of depth")] = values
    captions = texts.column("caption").combine_chunks()
    lengths = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(captions)))
    words = np.where(pc.equal(pc.utf8_trim_whitespace(captions), "").to_numpy(zero_copy_only=False), 0, lengths)
    longest = pc.max(pc.binary_length(captions)).as_py()
    cut = f" in its first {TEXTS['caption']} bytes" if longest == TEXTS["caption"] else ""
    title = f"words of a caption{cut}"
    found.counts[title] = _ranges(words, whole=True)
    return found


def _values(column: pa.Array) -> list[tuple[str, int]]:
    """The most frequent values of a column, then the number of clips of all others."""
    counted = [(entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist()]
    counted.sort(key=lambda item: (-item[1], str(item[0])))
    named = [(_shown(value), count) for value, count in counted[:_LISTED]]
    if others := counted[_LISTED:]:
        named.append((f"{len(others)} others", sum(count for _, count in others)))
    return named


def _shown(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text[:40] or "not stated"


def _ranges(values: np.ndarray, *, whole: bool) -> list[tuple[str, int]]:
    """Numbers of values in up to eight equal ranges, which hold their lower end, the last one both."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [(f"{low:.4g}", len(values))]
    edges = np.linspace(low, high, _BINS + 1)
    if whole:
        edges = np.unique(np.append(np.floor(edges[:-1]), high + 1))
    counts, edges = np.histogram(values, edges)
    ends = [(int(a), int(b) - 1) if whole else (a, b) for a, b in pairwise(edges)]
    shown = [f"{a:.4g}" if whole and a == b else f"{a:.4g} to {b:.4g}" for a, b in ends]
    return [(label, int(count)) for label, count in zip(shown, counts, strict=True)]


def readable(size: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
