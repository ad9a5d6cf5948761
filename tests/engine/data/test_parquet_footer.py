"""The numbers of a parquet file's footer: those of pyarrow, and an error of one line for any other bytes."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files import parquet_footer
from phys4d.engine.data.files.parquet_footer import column_claims
from phys4d.engine.errors import UserError

TABLE = pa.table(
    {
        "number": range(5000),
        "words": [["a", str(row)] for row in range(5000)],
        "right": [row % 3 == 0 for row in range(5000)],
        "share": [row / 7 for row in range(5000)],
        "struct": [{"name": "x" * (row % 40), "deep": {"more": row}} for row in range(5000)],
    }
)


def written(row_group_size: int = 5000) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer, row_group_size=row_group_size, store_schema=True)
    return buffer.getvalue()


@pytest.mark.parametrize("rows", [5000, 999, 50])
def test_claims_are_what_pyarrow_reads(rows: int) -> None:
    data = written(rows)
    metadata = pq.read_metadata(io.BytesIO(data))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(metadata.num_columns)]
    expected = [(column.num_values, column.total_uncompressed_size) for column in columns]
    assert column_claims(io.BytesIO(data)) == expected and len(expected) >= 6


def test_any_other_footer_is_refused_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data, drawn = written(), random.Random(0)
    length = int.from_bytes(data[-8:-4], "little")
    refused = 0
    for _ in range(2000):
        changed = bytearray(data)
        for _ in range(drawn.randint(1, 4)):
            changed[drawn.randrange(len(data) - 8 - length, len(data) - 8)] = drawn.randrange(256)
        try:
            assert all(type(number) is int for claim in column_claims(io.BytesIO(changed)) for number in claim)
        except ValueError as error:
            refused += 1
            assert str(error).startswith("has a footer ")
    assert refused > 200
    for end in (0, 4, 8, len(data) - 1):
        with pytest.raises(ValueError, match="has no footer of parquet"):
            column_claims(io.BytesIO(data[:end]))
    with pytest.raises(ValueError, match=r"has a footer of \d+ bytes, at most"):
        column_claims(io.BytesIO(data[:-8] + (1 << 31).to_bytes(4, "little") + b"PAR1"))
    nested = b"\x1c" * 100  # a struct in a struct, and so on
    with pytest.raises(ValueError, match="more than 16 deep"):
        column_claims(io.BytesIO(nested + len(nested).to_bytes(4, "little") + b"PAR1"))
    lists = b"\x19" * 100  # a list of a list
    with pytest.raises(ValueError, match="more than 16 deep"):
        column_claims(io.BytesIO(lists + len(lists).to_bytes(4, "little") + b"PAR1"))
    monkeypatch.setattr(parquet_footer, "PARQUET_FOOTER_BYTES", length - 1)
    with pytest.raises(ValueError, match=f"has a footer of {length} bytes, at most {length - 1} are read"):
        column_claims(io.BytesIO(data))


def test_a_type_that_a_columns_statistics_do_not_fit_is_refused(
    write_dataset: Callable[[dict[int, dict[str, bytes]]], Path],
) -> None:
    """pyarrow's object of such a column ends the process."""
    folder = write_dataset({})
    (folder / "manifest.json").unlink()
    index = folder / "index.parquet"
    data = index.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.index(b"\x18\x03key", footer)  # the name in the schema, behind the type and what repeats
    kind = data.rindex(b"\x15\x0c", 0, at)
    assert at - kind < 6
    index.write_bytes(data[: kind + 1] + b"\x00" + data[kind + 2 :])  # a column of truth values
    with pytest.raises(UserError, match=r"index\.parquet: "):
        ClipDataset(folder)
