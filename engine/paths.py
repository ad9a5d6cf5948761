"""Expansion of paths as in a shell: ~, ~name, $NAME and ${NAME}."""

import argparse
import os
import re
from pathlib import Path

from phys4d.engine.errors import UserError
from phys4d.engine.location import Location, parse_location

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})")


def expanded(path: Path) -> Path:
    """The path with ~ and environment variables expanded. A relative path stays relative to the working directory.

    Raises ValueError if a variable is unset or empty, a home folder is unknown, or the result could not be written to a
    run file and read back.
    """
    text = str(path)
    if "\0" in text:
        raise ValueError("a path cannot hold the character 0")

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1] or match[2])
        if not found:
            raise ValueError(f"{match[0]} is not set in the environment: set it or write the path out")
        return found

    filled = _VARIABLE.sub(value, text)
    if filled != text and _VARIABLE.search(filled):
        raise ValueError(f"stands for {filled}, which names a variable again: write the path out")
    try:
        return Path(filled).expanduser()
    except RuntimeError:
        raise ValueError("the home folder of this user is not known: write the path out") from None


def given_location(text: str) -> Location:
    """The location that a user gives: a URL, or a path with ~ and environment variables. Raises UserError."""
    where = parse_location(text)
    try:
        return expanded(where) if isinstance(where, Path) else where
    except ValueError as error:
        raise UserError(f"{text}: {error}") from None


def expanded_options(options: argparse.Namespace) -> None:
    """Expands every path among the options of a command, in place. Raises UserError."""
    for name, value in vars(options).items():
        several = value if isinstance(value, list) else [value]
        if not several or not all(isinstance(one, Path) for one in several):
            continue
        try:
            paths = [expanded(one) for one in several]
        except ValueError as error:
            shown = ", ".join(map(str, several))
            raise UserError(f"{name.replace('_', '-')} {shown}: {error}") from None
        setattr(options, name, paths if isinstance(value, list) else paths[0])
