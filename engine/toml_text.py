"""TOML within limits: the parser's time and memory grow with the square of the parts of a key, and it recurses."""

import re
import tomllib
from pathlib import Path
from typing import Any

from phys4d.engine.limits import TOML_BYTES, TOML_DEPTH

# A comment, or a text; in what is left, dots and brackets are those of keys, tables and arrays.
_TEXTS = re.compile(
    r"""#[^\n]*|\"\"\"(?:[^"\\]|\\.|"(?!""))*\"\"\"|'''(?:[^']|'(?!''))*'''|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""", re.DOTALL
)
_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{TOML_DEPTH}}}")


def read(path: Path) -> str:
    """The text of a TOML file, or of a pipe that gives one.

    Raises ValueError if it is longer than `engine.limits.TOML_BYTES` or not UTF-8, OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(TOML_BYTES + 1)
    if len(data) > TOML_BYTES:
        raise ValueError(f"longer than {TOML_BYTES} bytes, the most that are read")
    return data.decode()


def loads(text: str) -> dict[str, Any]:
    """The table in a TOML document. Raises tomllib.TOMLDecodeError, a ValueError, if it is none or exceeds a limit."""
    if len(text) > TOML_BYTES:
        raise tomllib.TOMLDecodeError(f"longer than {TOML_BYTES} characters, the most that are read")
    bare = _TEXTS.sub(lambda found: "" if found[0].startswith("#") else "t", text)
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > TOML_DEPTH:
            raise tomllib.TOMLDecodeError(f"arrays or tables inside each other more than {TOML_DEPTH} deep")
    if found := _LONG_KEY.search(bare):
        raise tomllib.TOMLDecodeError(f"a key of more than {TOML_DEPTH} parts: {found[0][:40]}...")
    return tomllib.loads(text)
