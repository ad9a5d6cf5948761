"""The index of a dataset in memory: which clips there are, and what the index says of them."""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from phys4d.engine.data.columns import NUMBERS, TEXTS, check_where, chosen
from phys4d.engine.data.index import read_index
from phys4d.engine.data.location import Location, parse_location
from phys4d.engine.errors import UserError


class ClipIndex:
    """The clips of a dataset by number.

    folder: of the dataset: local, or a URL that `location.parse_location` accepts.
    where: column -> allowed values: only the clips that have one of them in every column are there. Columns are
        caption, category, family, source (texts), frames, fps, height and width (numbers).

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

        name: caption, category, family, source, frames, fps, height, width, key or shard.

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
        """SHA-256 of the member `name` of every clip, in order. Raises UserError if a clip lacks it or has it twice."""
        members = self._index.column("members").combine_chunks()
        every, wanted = members.flatten(), pc.equal(members.flatten().field("name"), name)
        counted = pc.value_counts(pc.list_parent_indices(members).filter(wanted))
        if len(counted) != len(self) or not pc.all(pc.equal(counted.field("counts"), 1)).as_py():
            raise UserError(f"{self.folder}: a clip has no {name}, or two: copy the dataset again")
        return every.field("sha256").filter(wanted)

    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of every clip, from the index. Raises UserError if there are no clips or sizes
        differ.
        """
        columns = [self._index.column(name).to_pylist() for name in ("key", "frames", "height", "width")]
        sizes = [(frames, height, width) for _, frames, height, width in zip(*columns, strict=True)]
        if not sizes:
            raise UserError(f"{self.folder}: holds no clips: simulate or label some first")
        for key, size in zip(columns[0], sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{self.folder}: clip {key}: {size} frames, height, width beside clips of {sizes[0]}: "
                    "a dataset holds clips of one size"
                )
        return sizes[0]

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
