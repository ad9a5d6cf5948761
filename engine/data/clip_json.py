"""The json of a clip, parsed within limits and checked."""

import json
import re
from collections.abc import Collection
from typing import Any

from phys4d.engine.data.schema import Size, check_meta
from phys4d.engine.limits import JSON_BYTES, JSON_DEPTH

_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def parse(data: bytes, size: Size, required: Collection[str] = ()) -> dict[str, Any]:
    """The parsed json of a clip, with fields as `schema.FIELDS` says.

    A caption may be empty, of any length, in any script and with control characters; half of a surrogate pair is
        refused, since it has no UTF-8 form.

    data: UTF-8 JSON.
    size: (frames, height, width) of the clip in the index.
    required: fields that must be there.

    Raises ValueError that names the field, or for JSON that exceeds a limit (`engine.limits`).
    """
    meta = loads(data)
    check_meta(meta, size, required)
    assert isinstance(meta, dict)
    return meta


def loads(data: bytes) -> Any:
    """The value of a JSON document. Raises ValueError if it is none, or longer or deeper than `engine.limits` says."""
    if len(data) > JSON_BYTES:
        raise ValueError(f"has {len(data)} bytes, at most {JSON_BYTES} are read")
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
    brackets = _TEXTS.sub(b"", data).translate(None, _NO_BRACKETS)
    depth = 0
    while brackets and depth <= JSON_DEPTH:
        outer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        depth += 1
        if len(outer) == len(brackets):  # brackets that do not match: counted as if all were nested
            return depth + len(brackets.strip(b"]}"))
        brackets = outer
    return depth
