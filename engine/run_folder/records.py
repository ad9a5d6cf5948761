"""JSON files that describe a run, read by a pydantic model; one that is damaged is set aside."""

import os
import sys
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from phys4d.engine.errors import printable

Record = TypeVar("Record", bound=BaseModel)


def read_record(path: Path, record: type[Record], effect: str) -> Record | None:
    """The content of a JSON file that describes a run, or None if there is none.

    A damaged file is renamed, so that it can be written anew, and a line on standard error says so, and the effect of
    that.

    path: the file.
    record: pydantic model of the content.
    effect: of a damaged file, for that line.
    """
    try:
        return record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        kept = path.with_name(f"{path.name}.damaged")
        os.replace(path, kept)
        why = f"{error}"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = ": ".join([*map(str, first["loc"]), first["msg"]])
        print(printable(f"{path}: is damaged ({why}), renamed to {kept.name}: {effect}"), file=sys.stderr)
        return None
