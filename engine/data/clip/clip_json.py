"""The json of a clip, parsed within limits and checked."""

import json
from collections.abc import Collection
from typing import Any

from phys4d.engine import json_text
from phys4d.engine.data.clip.schema import Size, check_meta


def caption(data: bytes) -> str:
    """The caption in a text beside a clip: UTF-8, without space around it. Raises ValueError for other bytes."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None


def parse(data: bytes, size: Size, required: Collection[str] = (), *, known: bool = False) -> dict[str, Any]:
    """The parsed json of a clip, with fields as `schema.FIELDS` says.

    A caption may be empty, of any length, in any script and with control characters; half of a surrogate pair is
        refused, since it has no UTF-8 form.

    data: UTF-8 JSON.
    size: (frames, height, width) of the clip in the index.
    required: fields that must be there.
    known: whether the same bytes were parsed before with the same arguments, and nothing was wrong: nothing is then
        checked again.

    Raises ValueError that names the field, or for JSON that exceeds a limit (`engine.limits`).
    """
    meta = json.loads(data) if known else json_text.loads(data)
    if not known:
        check_meta(meta, size, required)
    assert isinstance(meta, dict)
    return meta
