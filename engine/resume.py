"""Which settings a resumed run may change: a field of a Config states it (`OnResume`); other changes are refused."""

import hashlib
import json
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel

from phys4d.engine import toml_text
from phys4d.engine.config import Config, dump_toml, models_in
from phys4d.engine.errors import UserError

_SHOWN = 4
_ENDS = 1 << 16  # bytes


@dataclass(frozen=True)
class OnResume:
    """Marks a Config field, as Annotated[int, OnResume(...)], whose changes --resume accepts.

    On a table it applies to all fields of the table that have no mark of their own.

    effect: effect of the change, printed and recorded.
    anytime: may change even if its stage is finished.
    discards: a folder in the run folder with results of the old setting, which is removed.
    repaired: for a path: effect of changed content at the same path; if empty, changed content is refused.
    """

    effect: str
    anytime: bool = False
    discards: str = ""
    repaired: str = ""


SAME_WEIGHTS = OnResume("the weights are the same as without the change", anytime=True)
FROM_HERE = OnResume("holds from the next step on, so the weights are not those of a run started with it")

REGROUPED = OnResume("the same samples in the same order; sums are rounded in another order")

ANEW = OnResume("its stage begins with it")

MOVED = OnResume("another place, the same content", anytime=True)

_REPAIRED = "other files than at the start of the run, from the next step on"

DATA = OnResume(MOVED.effect, anytime=True, repaired=_REPAIRED)
"""Of data whose content the run records at its start (`Run.create(identities=...)`). It may be moved, or repaired at
the same path (a damaged clip written again)."""

Movable = Annotated[Path, DATA]
"""A path to such data."""


class Change(NamedTuple):
    """One difference between two configurations; None if one of them lacks the key."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[Change]:
    """The differences between two parsed TOML documents, by dotted key."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from changes(a, b, f"{prefix}{key}.")
        elif a != b:
            yield Change(f"{prefix}{key}", a, b)


def accepted(
    stored: Path,
    config: Config,
    finished: Collection[str],
    known: Mapping[str, str],
    found: Mapping[str, str],
    anew: Collection[str] = (),
) -> list[tuple[Change, OnResume]]:
    """The changes from the stored configuration to `config`, if all of them are allowed.

    stored: config.toml of the run.
    config: configuration of this session.
    finished: tables of finished stages, for which most changes have no effect and are refused.
    known, found: digests, by dotted key, of the content of paths at the start of the run and now.
    anew: tables of stages that begin, or begin again, of which everything may change.

    Raises UserError that names what must be set back.
    """
    try:
        old = toml_text.loads(toml_text.read(stored))
    except ValueError as error:
        raise UserError(f"{stored}: cannot be read ({error}): start a new folder") from None
    differences = list(changes(old, tomllib.loads(dump_toml(config))))
    marked = [(c, ANEW if _in(c.key, anew) else _mark(type(config), c.key)) for c in differences]
    refused = [str(change) for change, mark in marked if mark is None]
    if refused:
        more = f" (and {len(refused) - _SHOWN} more)" if len(refused) > _SHOWN else ""
        raise UserError(
            f"{stored}: the run was started with another configuration: {', '.join(refused[:_SHOWN])}{more}: resume "
            "with the old one or start a new folder"
        )
    taken = [(change, mark) for change, mark in marked if mark is not None]
    for change, mark in taken:
        if _in(change.key, finished) and not mark.anytime:
            again = f"--rerun {change.key.split('.')[0]}"
            raise UserError(f"{stored}: {change}: this stage is finished: set it back, {again}, or start a new folder")
    for key in sorted(known.keys() | found.keys()):
        if known.get(key) == found.get(key) or _in(key, finished):
            continue
        if _in(key, anew):
            if key in known:
                taken.append((Change(f"content of {key}", known[key], found.get(key)), ANEW))
            continue
        held = _mark(type(config), key)
        in_place = key not in {change.key for change, _ in taken}
        if held is not None and held.repaired and in_place:
            held = OnResume(held.repaired)
        elif held is None or not held.discards:
            raise UserError(
                f"{key}: {_value(config, key)}: does not hold what it held at the start of the run ({stored}): give "
                "the same files or start a new folder"
            )
        taken.append((Change(f"content of {key}", known.get(key), found.get(key)), held))
    return taken


def digest(files: Iterable[Path], below: Path) -> str:
    """A cheap identity of files: SHA-256 over their names relative to `below`, sizes, and first and last 64 KiB."""
    total = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        total.update(json.dumps([str(path.relative_to(below)), size]).encode())
        with open(path, "rb") as file:
            total.update(file.read(_ENDS))
            file.seek(max(size - _ENDS, 0))
            total.update(file.read(_ENDS))
    return total.hexdigest()


def _in(key: str, tables: Collection[str]) -> bool:
    """Whether a dotted key lies in one of the tables."""
    return key.split(".")[0] in tables


def _mark(schema: type[BaseModel], key: str) -> OnResume | None:
    mark, tables = None, [schema]
    for part in key.split("."):
        fields = [table.model_fields[part] for table in tables if part in table.model_fields]
        mark = next((m for field in fields for m in field.metadata if isinstance(m, OnResume)), mark)
        tables = [model for field in fields for model in models_in(field.annotation)]
    return mark


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part, None)
    return ", ".join(map(str, config)) if isinstance(config, tuple) else config


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
