"""What the footer of a parquet file claims of its columns.

pyarrow makes an object of a column's footer outside of its own exception handling: statistics that do not fit the
column's type end the process (pyarrow 26: `RowGroupMetaData.column`). The two numbers that are needed are read here,
from Thrift's compact protocol (github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), by the field
numbers of github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

import struct
from typing import Any, BinaryIO

from phys4d.engine.limits import PARQUET_FOOTER_BYTES, PARQUET_FOOTER_DEPTH

_MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_ROW_GROUPS, _COLUMNS, _META_DATA, _NUM_VALUES, _UNPACKED = 4, 1, 3, 5, 6


def column_claims(source: BinaryIO) -> list[tuple[int, int]]:
    """(values, uncompressed bytes) that the footer states of each column of each row group.

    source: open at any place.

    Raises ValueError if the footer is not as parquet has it, or exceeds a limit.
    """
    end = source.seek(0, 2)
    source.seek(max(0, end - 8))
    tail = source.read(8)
    if len(tail) < 8 or tail[4:] != _MAGIC:
        raise ValueError("has no footer of parquet")
    (length,) = struct.unpack("<I", tail[:4])
    if length > min(end - 8, PARQUET_FOOTER_BYTES):
        raise ValueError(f"has a footer of {length} bytes, at most {PARQUET_FOOTER_BYTES} are read")
    source.seek(end - 8 - length)
    try:
        groups = _Compact(source.read(length)).fields(0)[_ROW_GROUPS]
        columns = [column[_META_DATA] for group in groups for column in group[_COLUMNS]]
        claims = [(column[_NUM_VALUES], column[_UNPACKED]) for column in columns]
    except (IndexError, KeyError, TypeError, struct.error):
        raise ValueError("has a footer that cannot be read") from None
    if {type(number) for claim in claims for number in claim} - {int}:
        raise ValueError("has a footer that cannot be read")
    return claims


class _Compact:
    """Reads values of Thrift's compact protocol; IndexError, KeyError or struct.error where there are none."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def fields(self, depth: int) -> dict[int, Any]:
        """The fields of a struct by number. depth: of the structs, lists and maps around it."""
        if depth > PARQUET_FOOTER_DEPTH:
            raise ValueError(f"has a footer with structures more than {PARQUET_FOOTER_DEPTH} deep")
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):  # a truth value takes a byte in lists and maps
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            self._check_count(count)
            return [self._item(head & 15, depth) for _ in range(count)]
        if kind == _MAP:
            count = self._varint()
            self._check_count(count)
            kinds = self._byte() if count else 0
            return [(self._item(kinds >> 4, depth), self._item(kinds & 15, depth)) for _ in range(count)]
        if kind == _STRUCT:
            return self.fields(depth + 1)
        raise KeyError(kind)

    def _item(self, kind: int, depth: int) -> Any:
        if depth > PARQUET_FOOTER_DEPTH:
            raise ValueError(f"has a footer with structures more than {PARQUET_FOOTER_DEPTH} deep")
        return self._value(kind, depth + 1)

    def _check_count(self, count: int) -> None:
        if count > len(self._data) - self._at:  # an item takes a byte or more
            raise IndexError(count)

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise KeyError("a number of more than 64 bits")

    def _bytes(self, count: int) -> bytes:
        self._check_count(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]
