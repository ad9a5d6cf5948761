"""The columns of an index by which clips are chosen and mixed: texts that a clip's json states, and its size."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from phys4d.engine import json_text
from phys4d.engine.data.clip import clip_json
from phys4d.engine.limits import INDEX_CAPTION_BYTES, INDEX_TEXT_BYTES

TEXTS: Mapping[str, int] = {
    "caption": INDEX_CAPTION_BYTES,
    "category": INDEX_TEXT_BYTES,
    "family": INDEX_TEXT_BYTES,
    "source": INDEX_TEXT_BYTES,
    "depth_kind": INDEX_TEXT_BYTES,
    "seed": INDEX_TEXT_BYTES,
}
"""Columns of text, which may be empty, each with the most bytes of one of its values."""
NUMBERS = ("frames", "fps", "height", "width")
_ORIGINS = ("file", "recording", "source")  # of a clip's provenance, the most exact first
_SHOWN = 20  # values that a message lists


def texts_of(members: Mapping[str, bytes]) -> dict[str, str]:
    """The texts of a clip for the index, each cut to the bytes that `TEXTS` allows; "" for one that is not stated.

    members: extension -> bytes. `caption`, `category`, `family`, `source` and `depth_kind` are fields of the json; a
        caption may be the member "txt" instead, a source the file, recording or program that its provenance names, and
        the seed is the whole number in its provenance.

    A json that cannot be read states nothing here; reading the clip reports it.
    """
    try:
        meta = json_text.loads(members.get("json", b"{}"))
    except ValueError:
        meta = {}
    stated = dict(meta) if isinstance(meta, dict) else {}
    if "txt" in members:
        with suppress(ValueError):
            stated.setdefault("caption", clip_json.caption(members["txt"]))
    if isinstance(provenance := stated.get("provenance"), dict):
        origins = (provenance[name] for name in _ORIGINS if isinstance(provenance.get(name), str))
        stated.setdefault("source", next(origins, ""))
        seed = provenance.get("seed")
        stated["seed"] = str(seed) if isinstance(seed, int) and not isinstance(seed, bool) else ""
    else:
        stated["seed"] = ""
    return {name: _cut(stated.get(name), most) for name, most in TEXTS.items()}


def _cut(value: Any, most: int) -> str:
    """The first `most` bytes of a text in UTF-8, without a part of a character at the end."""
    return value.encode("utf-8", "replace")[:most].decode("utf-8", "ignore") if isinstance(value, str) else ""


def parse_where(texts: Collection[str]) -> dict[str, list[Any]]:
    """`where` of texts such as "category=fluid,rigid", one for each column. Raises ValueError."""
    where: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"where {text}: expected COLUMN=VALUE,VALUE, such as category=fluid,rigid")
        parts = values.split(",")
        if name in NUMBERS:
            try:
                where.setdefault(name, []).extend(float(part) for part in parts)
            except ValueError:
                raise ValueError(f"where {text}: {name}: expected numbers") from None
        else:
            where.setdefault(name, []).extend(parts)
    return where


def check_where(where: Mapping[str, Collection[Any]]) -> None:
    """Raises ValueError for a column that is not one of `TEXTS` or `NUMBERS`, or values of another type."""
    for name, values in where.items():
        if name not in (*TEXTS, *NUMBERS):
            raise ValueError(f"where: no column {name!r}: expected {', '.join((*TEXTS, *NUMBERS))}")
        kind: Any = str if name in TEXTS else int | float
        if isinstance(values, str | bytes) or not isinstance(values, Collection):
            raise ValueError(f"where: {name}: expected a list of values, got {values!r}")
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"where: {name}: expected {'texts' if name in TEXTS else 'numbers'}, got {value!r}")


def chosen(table: pa.Table, where: Mapping[str, Collection[Any]]) -> pa.ChunkedArray:
    """Which rows have one of the allowed values in every column of `where`: bool.

    table: with those columns. where: column -> allowed values, as `check_where` accepts them.

    Raises ValueError if no row has, naming the column, the values and those that there are.
    """
    mask = pa.chunked_array([pa.repeat(pa.scalar(True), table.num_rows)])
    for name, values in where.items():
        column = table.column(name)
        kind = pa.string() if name in TEXTS else pa.float64()
        allowed = pa.array(list(values), kind)
        found = pc.is_in(column.cast(kind), value_set=allowed)
        before, mask = table.filter(mask).column(name), pc.and_(mask, found)
        if not pc.any(mask).as_py():
            others = [f"{key} {_listed(where[key])}" for key in list(where)[: list(where).index(name)]]
            among = f" among those of {' and '.join(others)}" if others else ""
            raise ValueError(f"where: no clip has {name} {_listed(values)}{among}: {_those_of(name, before)}")
    return mask


def _those_of(name: str, column: pa.ChunkedArray) -> str:
    there = sorted(pc.unique(column).to_pylist())
    if there in ([], [""]):
        return f"no clip states its {name}, or the index was written before it had this column"
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return f"there are {_listed(there[:_SHOWN])}{more}"


def _listed(values: Collection[Any]) -> str:
    return ", ".join(repr(value)[:80] if isinstance(value, str) else f"{value:g}" for value in values) or "none"
