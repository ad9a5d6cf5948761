"""Reads index.parquet within limits: what it claims is checked before columns are unpacked, what it says before use."""

import hashlib
import io
import os
import re
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phys4d.engine.data.access.open_files import open_regular
from phys4d.engine.data.access.remote_files import RemoteFiles
from phys4d.engine.data.files.columns import TEXTS
from phys4d.engine.data.files.parquet_footer import column_claims
from phys4d.engine.data.files.shards import INDEX, SCHEMA
from phys4d.engine.errors import UserError
from phys4d.engine.faults import ABSENT, reading
from phys4d.engine.integrity import LARGEST_MANIFEST, MANIFEST, check, parse_manifest
from phys4d.engine.limits import (
    CLIP_MEMBERS,
    FRAMES,
    INDEX_BYTES,
    INDEX_SPARE_ROWS,
    INDEX_TEXT_BYTES,
    INDEX_UNPACKED_RATIO,
    INDEX_UNPACKED_SPARE,
    MEMBER_BYTES,
    PICTURE_PIXELS,
    VIDEO_BYTES,
)
from phys4d.engine.location import Location, Remote

_STRINGS = re.compile(r"key|shard|members\.list\.\w+\.(name|sha256)")
KEY, SHARD, MEMBER = r"^[A-Za-z0-9_-]{1,80}$", r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,250}$", r"^[a-z0-9]{1,16}$"
_SHA256 = r"^[0-9a-f]{64}$"


def read_index(folder: Location, digests: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> pa.Table:
    """The rows of a dataset's index, one clip each, with the columns of `SCHEMA` and further ones.

    digests: names of further columns, of 64 hexadecimal digits each.
    texts: names of further columns, from `columns.TEXTS`. An index of an earlier version lacks them: they are then
        empty, and only the json of each clip says what it shows.

    Checked for every row: key and shard are plain names (a shard lies in the folder), numbers of frames and pixels are
        positive and within `engine.limits`, offsets and sizes are not negative, digests have the form of SHA-256, texts
        are not longer than `columns.TEXTS` says.

    Raises UserError if the folder is no dataset, or for an index that is damaged, exceeds a limit or is wrong;
    MachineFault if the machine failed.
    """
    path, schema = folder / INDEX, pa.schema([*SCHEMA, *((name, pa.string()) for name in (*digests, *texts))])
    with reading(path):
        try:
            with _opened(folder) as source:
                table = _read(path, source, schema, texts)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                if error.errno not in ABSENT:
                    raise
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            raise UserError(f"{path}: cannot be read as parquet: {_first_line(error)}") from None
    if fault := _fault(table, digests):
        raise UserError(f"{path}: {fault}: this index is damaged or not of this program: copy the dataset again")
    return table


def index_digest(folder: Location) -> str:
    """The SHA-256 of a dataset's index. Raises as `read_index`."""
    with reading(folder / INDEX), _opened(folder) as source:
        return hashlib.sha256(source.read()).hexdigest()


def _opened(folder: Location) -> BinaryIO:
    """The index of a dataset, whose digest is compared with that in the manifest if there is one."""
    path, advice = folder / INDEX, "copy the dataset again"
    if isinstance(folder, Remote):
        return io.BytesIO(_fetched(folder, advice))
    with reading(folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such dataset: make one with `phys4d simulate --out {folder} --clips N`")
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder}: no {INDEX} in it: this is no dataset, or its writing was cut off")
    if (folder / MANIFEST).exists():
        check(folder, advice)
    source = open(open_regular(folder / INDEX), "rb")  # noqa: SIM115 (closed by the caller)
    if (size := os.fstat(source.fileno()).st_size) > INDEX_BYTES:
        source.close()
        raise _too_long(path, size)
    return source


def _fetched(folder: Remote, advice: str) -> bytes:
    """The bytes of a remote index."""
    files, path, manifest = RemoteFiles(), folder / INDEX, folder / MANIFEST
    try:
        if (size := files.size(path)) > INDEX_BYTES:
            raise _too_long(path, size)
        data = files.read(path, size, 0)
    except FileNotFoundError:
        raise UserError(f"{folder}: no {INDEX} there: this is no dataset, or its writing was cut off") from None
    try:
        text = files.read(manifest, min(files.size(manifest), LARGEST_MANIFEST + 1), 0)
    except FileNotFoundError:
        return data
    expected = parse_manifest(text, manifest, advice).get(INDEX)
    if expected is not None and expected != (len(data), hashlib.sha256(data).hexdigest()):
        raise UserError(f"{path}: is damaged, its SHA-256 is not that in {MANIFEST}: {advice}")
    return data


def _too_long(path: Location, size: int) -> UserError:
    return UserError(f"{path}: has {size} bytes, at most {INDEX_BYTES} are read: split the dataset")


def _read(path: Location, source: BinaryIO, schema: pa.Schema, texts: tuple[str, ...]) -> pa.Table:
    """Strings are read as dictionaries, so that a long one that all rows repeat is unpacked once.

    texts: columns of `schema` that are empty if the file lacks them.
    """
    further = schema.names[len(SCHEMA) :]
    size = source.seek(0, 2)
    metadata = pq.read_metadata(source)
    try:
        claims = column_claims(source)
    except ValueError as error:
        raise UserError(f"{path}: {error}: this is no index of clips") from None
    _check_claims(path, metadata.num_rows, claims, size)
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    source.seek(0)
    strings = [leaf for leaf in leaves if _STRINGS.fullmatch(leaf) or leaf in further]
    file = pq.ParquetFile(source, metadata=metadata, read_dictionary=strings)
    missing = [name for name in schema.names if name not in file.schema_arrow.names]
    if required := [name for name in missing if name not in texts]:
        raise UserError(f"{path}: has no column {', '.join(required)}: this is no index of clips")
    table = file.read(columns=[name for name in schema.names if name not in missing], use_threads=False)
    if table.nbytes > _most_unpacked(size):
        raise UserError(f"{path}: unpacks to {table.nbytes} bytes, at most {_most_unpacked(size)} are read")
    for name in missing:
        table = table.append_column(name, pa.repeat(pa.scalar(""), table.num_rows).dictionary_encode())
    for name in ("key", "shard", *further):
        if fault := _long(table.column(name), name):
            raise UserError(f"{path}: {fault}")
    members = table.column("members").combine_chunks()
    if pa.types.is_list(members.type) and pa.types.is_struct(members.type.value_type):
        for name in ("name", "sha256"):
            field = members.flatten()
            if field.type.get_field_index(name) >= 0 and (fault := _long(field.field(name), name)):
                raise UserError(f"{path}: {fault}")
    try:
        return table.select(schema.names).cast(schema).combine_chunks()
    except pa.ArrowException as error:
        raise UserError(f"{path}: has a column of another type: {_first_line(error)}") from None


def _check_claims(path: Location, rows: int, claims: list[tuple[int, int]], size: int) -> None:
    """Raises UserError if the footer claims more rows, or of a column more values and bytes (`column_claims`), than a
    file of `size` bytes can honestly hold.
    """
    if rows > size + INDEX_SPARE_ROWS:
        raise UserError(f"{path}: claims {rows} clips in {size} bytes: this is no index of clips")
    values = max((number for number, _ in claims), default=0)
    unpacked = sum(unpacked for _, unpacked in claims)
    if values > CLIP_MEMBERS * max(rows, 1) or not 0 <= unpacked <= _most_unpacked(size):
        raise UserError(f"{path}: claims {values} values and {unpacked} bytes in {rows} rows of {size} bytes")


def _most_unpacked(size: int) -> int:
    return INDEX_UNPACKED_RATIO * size + INDEX_UNPACKED_SPARE


def _long(column: Any, name: str) -> str | None:
    """A fault if a string of a column, read as a dictionary, is longer than any name or digest."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        if not pa.types.is_string(values.type):
            return f"{name}: has the type {values.type}, expected strings: this is no index of clips"
        if (pc.max(pc.binary_length(values)).as_py() or 0) > (most := TEXTS.get(name, INDEX_TEXT_BYTES)):
            return f"{name}: a text of more than {most} bytes: this is no index of clips"
    return None


def _fault(table: pa.Table, digests: tuple[str, ...]) -> str | None:
    """What is wrong with the first wrong row of a column, None if nothing is."""
    if not table.num_rows:
        return None
    for name in table.column_names:
        if table.column(name).null_count:
            return f"{name}: a row has none"
    frames, height, width = (table.column(name).cast(pa.int64()) for name in ("frames", "height", "width"))
    pixels = pc.multiply(height, width).cast(pa.float64(), safe=False)  # the product of two int32 cannot overflow
    positive = pc.and_(pc.greater(height, 0), pc.greater(width, 0))
    small = pc.and_(positive, pc.less_equal(pixels, PICTURE_PIXELS))
    video = pc.multiply(pc.multiply(pixels, 3.0), frames.cast(pa.float64()))
    fps = table.column("fps")
    hexadecimal = "expected 64 hexadecimal digits"
    checks = [
        (pc.match_substring_regex(table.column("key"), KEY), "key", "expected 1 to 80 letters, digits, '_' or '-'"),
        (pc.match_substring_regex(table.column("shard"), SHARD), "shard", "expected the name of a file in the dataset"),
        (pc.and_(pc.greater(frames, 0), pc.less_equal(frames, FRAMES)), "frames", f"expected 1 to {FRAMES}"),
        (small, "height", f"expected height and width of 1 to {PICTURE_PIXELS} pixels together"),
        (pc.less_equal(video, VIDEO_BYTES), "frames", f"frames of more than {VIDEO_BYTES} bytes"),
        (pc.and_(pc.greater(fps, 0), pc.less(fps, 1e6)), "fps", "expected more than 0 and less than 1e6"),
        *((pc.match_substring_regex(table.column(name), _SHA256), name, hexadecimal) for name in digests),
    ]
    for right, name, expected in checks:
        if (row := pc.index(right, False).as_py()) >= 0:
            return f"row {row + 1}: {name}: {expected}, got {_shown(table.column(name)[row].as_py())}"
    if pc.count_distinct(table.column("key")).as_py() < table.num_rows:
        return "key: two clips have the same one"
    return _member_fault(table.column("members").combine_chunks())


def _member_fault(members: pa.ListArray) -> str | None:
    counts = pc.list_value_length(members)
    if (pc.min(counts).as_py() < 1 or pc.max(counts).as_py() > CLIP_MEMBERS):
        return f"members: expected 1 to {CLIP_MEMBERS} of each clip"
    every = members.flatten()
    fields = {name: every.field(name) for name in ("name", "offset", "size", "sha256")}
    if every.null_count or any(field.null_count for field in fields.values()):
        return "members: one lacks a field"
    offset, size = fields["offset"], fields["size"]
    right = pc.and_(pc.greater_equal(offset, 0), pc.and_(pc.greater_equal(size, 0), pc.less_equal(size, MEMBER_BYTES)))
    if not pc.all(pc.and_(right, pc.less(offset, 1 << 62))).as_py():
        return f"members: an offset below 0, or a size not from 0 to {MEMBER_BYTES}"
    if not pc.all(pc.match_substring_regex(fields["name"], MEMBER)).as_py():
        return "members: name: expected 1 to 16 small letters and digits"
    if not pc.all(pc.match_substring_regex(fields["sha256"], _SHA256)).as_py():
        return "members: sha256: expected 64 hexadecimal digits"
    return None


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]
