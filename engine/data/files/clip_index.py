"""The index of a dataset in memory: which clips there are, and what the index says of them."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phys4d.engine.data.files.columns import NUMBERS, TEXTS, check_where, chosen
from phys4d.engine.data.files.index import read_index
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location, parse_location


class ClipIndex:
    """The clips of a dataset by number.

    folder: of the dataset: local, or a URL that `location.parse_location` accepts.
    where: column -> allowed values: only the clips that have one of them in every column are there. Columns are
        caption, category, family, source, depth_kind, seed (texts), frames, fps, height and width (numbers).

    The attribute `kept` is which of the rows of the index are there: bool [rows], None for all.

    Raises UserError if the index cannot be read or used, or no clip is chosen.
    """

    def __init__(self, folder: Location | str, where: Mapping[str, Collection[Any]] | None = None) -> None:
        self.folder = parse_location(folder)
        self._index, self.kept = self._rows(where or {})

    def _rows(self, where: Mapping[str, Collection[Any]]) -> tuple[pa.Table, pa.ChunkedArray | None]:
        """The rows of the clips that are there, and which of all rows these are; None: all."""
        texts = tuple(name for name in where if name in TEXTS)
        try:
            check_where(where)
            index = read_index(self.folder, texts=texts)
            kept = chosen(index, where) if where else None
        except ValueError as error:
            raise UserError(f"{self.folder}: {error}") from None
        index = index if kept is None else index.filter(kept).combine_chunks()
        return index.drop_columns(list(texts)), kept

    def __len__(self) -> int:
        return self._index.num_rows

    def row(self, index: int) -> dict[str, Any]:
        """The index entry of clip `index`: key, shard, frames, fps, height, width, members {name: {offset, size,
        sha256}}.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: clip {index} of {len(self)}")
        row = self._index.slice(index, 1).to_pylist()[0]
        row["members"] = {member["name"]: member for member in row["members"]}
        return row

    def keys(self) -> pa.Array:
        """The keys of all clips, in order."""
        return self._index.column("key").combine_chunks()

    def column(self, name: str) -> pa.Array:
        """A column of the index, one value for each clip.

        name: caption, category, family, source, depth_kind, seed, frames, fps, height, width, key or shard.

        Texts are read from the index at each call: `texts` reads several at once.

        Raises UserError for another name, or if the index was replaced since the dataset was opened.
        """
        if name in TEXTS:
            return self.texts((name,)).column(name).combine_chunks()
        if name not in (*NUMBERS, "key", "shard"):
            raise UserError(f"{self.folder}: no column {name!r}: expected {', '.join((*TEXTS, *NUMBERS))}, key, shard")
        return self._index.column(name).combine_chunks()

    def texts(self, names: Collection[str] = tuple(TEXTS)) -> pa.Table:
        """Columns of text, a row for each clip, by name.

        A caption is cut to `columns.TEXTS`. A text that the json of a clip does not state, or an index of an earlier
        version lacks, is "".

        Raises UserError if the index was replaced since the dataset was opened.
        """
        index = read_index(self.folder, texts=tuple(names))
        index = index if self.kept is None or len(self.kept) != len(index) else index.filter(self.kept)
        if not index.column("key").equals(self._index.column("key")):
            raise UserError(f"{self.folder}: the dataset was replaced while it was read: start again")
        return index.select(list(names))

    def digests(self, name: str) -> pa.Array:
        """SHA-256 of the member `name` of every clip, in order; 64 zeros for a clip without it, whose reading fails.

        Raises UserError if a clip has it twice.
        """
        members = self._index.column("members").combine_chunks()
        every, wanted = members.flatten(), pc.equal(members.flatten().field("name"), name)
        having = pc.list_parent_indices(members).filter(wanted)
        if pc.count_distinct(having).as_py() < len(having):
            index = next(entry["values"] for entry in pc.value_counts(having).to_pylist() if entry["counts"] > 1)
            row = self.row(index)
            raise UserError(
                f"{self.folder}/{row['shard']}: clip {row['key']}: {name} is in the index twice: copy the dataset again"
            )
        own = pc.index_in(pa.array(range(len(self)), having.type), value_set=having)
        return pc.fill_null(every.field("sha256").filter(wanted).take(own), "0" * 64)

    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of every clip, from the index. Raises UserError if there are no clips or sizes
        differ.
        """
        sizes = self.sizes()
        if not sizes:
            raise UserError(f"{self.folder}: holds no clips: simulate or label some first")
        if len(sizes) > 1:
            first, other = list(sizes.items())[:2]
            raise UserError(
                f"{self.folder}: clip {self.row(other[1])['key']}: {other[0]} frames, height, width beside clips of "
                f"{first[0]}: clips of one size are needed here"
            )
        return next(iter(sizes))

    def sizes(self, some: np.ndarray | None = None) -> dict[tuple[int, int, int], int]:
        """The sizes (frames, height, width) that there are, each with the index of its first clip, in that order.

        some: int64 indices of clips in ascending order; None: all.
        """
        table = self._index.select(["frames", "height", "width"])
        indices = range(len(self)) if some is None else some.tolist()
        columns = (table if some is None else table.take(pa.array(some))).to_pydict().values()
        found: dict[tuple[int, int, int], int] = {}
        for index, *size in zip(indices, *columns, strict=True):
            found.setdefault((size[0], size[1], size[2]), index)
        return found

    def member_bytes(self) -> dict[str, int]:
        """Bytes of all members together, by their names."""
        members = self._index.column("members").combine_chunks().flatten()
        table = pa.table({"name": members.field("name"), "size": members.field("size")})
        sums = table.group_by("name").aggregate([("size", "sum")]).sort_by("name")
        return dict(zip(sums.column("name").to_pylist(), sums.column("size_sum").to_pylist(), strict=True))

    def shard_edges(self) -> list[int]:
        """Indices of the first and the last clip of each shard; reading the last one detects a truncated shard."""
        shards = self._index.column("shard").to_pylist()
        last = len(shards) - 1
        return [
            i
            for i, shard in enumerate(shards)
            if i in (0, last) or shards[i - 1] != shard or shards[i + 1] != shard
        ]
