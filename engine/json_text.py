"""JSON within limits of length and depth: what comes from files of others is parsed with it."""

import json
import re
from pathlib import Path
from typing import Any

from phys4d.engine.limits import JSON_BYTES, JSON_DEPTH

_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def read(path: Path, most: int = JSON_BYTES) -> bytes:
    """The bytes of a file. Raises ValueError if it is longer than `most`, OSError if it cannot be read."""
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"has more than {most} bytes, the most that are read")
    return data


def loads(data: bytes, most: int = JSON_BYTES) -> Any:
    """The value of a JSON document. Raises ValueError if it is none, longer than `most` bytes, or deeper than
    `engine.limits` says.
    """
    if len(data) > most:
        raise ValueError(f"has {len(data)} bytes, at most {most} are read")
    if (depth := _depth(data)) > JSON_DEPTH:
        raise ValueError(f"has lists or objects inside each other more than {JSON_DEPTH} deep ({depth} or more)")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None


def _depth(data: bytes) -> int:
    """How many lists and objects lie inside each other, up to one more than is read; by replacing the innermost ones
    until none is left, which is fast since documents are shallow.
    """
    # Every second part between quotes is a text, unless a text has a quote in it. One byte is found faster than two.
    quoted = b"\\" in data and b'\\"' in data
    bare = _TEXTS.sub(b"", data) if quoted else b"".join(data.split(b'"')[::2])
    brackets = bare.translate(None, _NO_BRACKETS)
    depth = 0
    while brackets and depth <= JSON_DEPTH:
        outer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        depth += 1
        if len(outer) == len(brackets):  # brackets that do not match: counted as if all were nested
            return depth + len(brackets.strip(b"]}"))
        brackets = outer
    return depth
