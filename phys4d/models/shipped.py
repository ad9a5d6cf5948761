"""Trained models that come with the package: `phys4d:NAME` stands for their folder wherever a model is named.

Run files, model folders and records keep the name and not the place of the installation, so that they are read on every
machine.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

from phys4d.engine.errors import UserError

PREFIX = "phys4d:"
_FOLDERS = {"small": Path(__file__).parent / "small" / "pretrained"}


def opened(path: Path) -> Path:
    """The folder that a path stands for: of the model named `phys4d:NAME`, else the path itself. UserError for a name
    that no model has."""
    text = str(path)
    if not text.startswith(PREFIX):
        return path
    name = text.removeprefix(PREFIX)
    if name not in _FOLDERS:
        raise UserError(f"{text}: no model of this name comes with phys4d: {', '.join(map(PREFIX.__add__, _FOLDERS))}")
    return _FOLDERS[name]


def shown(folder: Path) -> str:
    """The name `phys4d:NAME` of a folder that `opened` gives, else the path as text."""
    return next((PREFIX + name for name, own in _FOLDERS.items() if own == folder), str(folder))


def _opened(path: Path | None) -> Path | None:
    try:
        return None if path is None else opened(path)
    except UserError as error:  # which pydantic takes as a fault of the key
        raise ValueError(str(error)) from None


# A key of a run file that names a model: a path when it is read, a name again when it is written.
ModelPath = Annotated[
    Path | None,
    AfterValidator(_opened),
    PlainSerializer(lambda path: None if path is None else shown(path), when_used="json"),
]
