"""Run files: TOML validated by frozen, strict pydantic models; every error is one line for the user."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, ValidationError, field_validator

from phys4d.engine import toml_text
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location, Remote
from phys4d.engine.paths import expanded, given_location


def _location(value: Any) -> Location:
    if isinstance(value, Path | Remote):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a folder or a URL in quotes")
    try:
        return given_location(value)
    except UserError as error:
        raise ValueError(str(error)) from None


Place = Annotated[Location, PlainValidator(_location), PlainSerializer(str)]
"""A folder, or the URL of one (`engine.location`)."""


class Config(BaseModel):
    """Base of all configurations: unknown keys, wrong types and changes after loading are refused.

    In Path fields, ~ and environment variables are expanded (`phys4d.engine.paths`). A field that may be None must
    default to None: TOML has no null, so None is written by omitting the key.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")

    @field_validator("*")
    @classmethod
    def _expand_paths(cls, value: Any) -> Any:
        return expanded(value) if isinstance(value, Path) else value


C = TypeVar("C", bound=Config)

_EXPECTED = {
    "missing": "a value (it has no default)",
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "path_type": "a path in quotes",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_pattern_mismatch": "a string matching {pattern}",
    "string_too_short": "a string of at least {min_length} characters",
    "string_too_long": "a string of at most {max_length} characters",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
}


def load_toml(path: Path, schema: type[C], overrides: Sequence[str] = ()) -> C:
    """Reads and validates a run file.

    path: the TOML file.
    schema: the Config subclass that it must satisfy.
    overrides: "a.b=value" texts, applied in order; the value is parsed as TOML, or taken as a plain string if that
        fails; an integer part of a key indexes an array.

    Raises UserError, one line with the file (or override), the dotted key, the expected and the actual value.
    """
    path = Path(path)
    try:
        data = toml_text.loads(toml_text.read(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the run file: {error.strerror}") from None
    origin: dict[str, str] = {}
    example = max((".".join(name) for name in _names(schema)), key=lambda key: key.count("."), default="key")
    for override in overrides:
        _override(data, override, origin, example)
    return build(schema, data, str(path), origin)


def build(schema: type[C], values: dict[str, Any], where: str, origin: Mapping[str, str] | None = None) -> C:
    """Builds a validated configuration from plain values, with the same one-line UserError as for a run file.

    schema: the Config subclass.
    values: parsed TOML.
    where: beginning of an error message (a file, or the name of a command).
    origin: dotted key -> the override that set it, which replaces `where` in an error about that key.
    """
    document = json.dumps(values, default=str)
    try:
        return schema.model_validate_json(document)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        line = _fault_line(where, schema, json.loads(document), faults[0], origin or {})
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(line + more) from None


def dump_toml(config: Config) -> str:
    """The configuration with all defaults as TOML text, from which `load_toml` reads an equal object."""
    text = "\n".join(_table(config.model_dump(mode="json"), ())) + "\n"
    back = type(config).model_validate_json(json.dumps(tomllib.loads(text)))
    assert back == config, "a field of this Config does not survive TOML (None that is not the default?)"
    return text


def _override(data: dict[str, Any], override: str, origin: dict[str, str], example: str) -> None:
    """Applies one "a.b=value" to the parsed document and records the keys that it set; example: a key for error
    messages.
    """
    dotted, equals, text = override.partition("=")
    parts = [part.strip() for part in dotted.split(".")]
    if not equals or not all(parts):
        raise UserError(f"--set {override}: expected KEY=VALUE, with a key such as {example}")
    try:
        parsed = toml_text.loads(f"value = {text.strip()}")
        value = parsed["value"] if parsed.keys() == {"value"} else text.strip()
    except tomllib.TOMLDecodeError:
        value = text.strip()
    here: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise UserError(
                    f"--set {override}: {'.'.join(parts[:depth])} is an array of {len(here)}: "
                    f"expected an index below {len(here)}, got {part!r}"
                )
            key: Any = int(part)
        elif isinstance(here, dict):
            key = part
            if not last:
                here.setdefault(key, {})
        else:
            raise UserError(f"--set {override}: {'.'.join(parts[:depth])} is no table, it is {_shown(here)}")
        if last:
            here[key] = value
        else:
            here = here[key]
    origin[".".join(parts)] = override


def _fault_line(where: str, schema: type[Config], data: Any, fault: Any, origin: Mapping[str, str]) -> str:
    """One pydantic error as "where: dotted key: expected ..., got ..."."""
    kind, parts, here = fault["type"], [], data
    for part in fault["loc"]:  # unions add type names to `loc`: only keys of the document are kept
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, dict) and part in here):
            here = here[part]
            parts.append(part)
        elif kind == "missing":
            parts.append(part)
    dotted = ".".join(map(str, parts))
    for key, override in origin.items():
        if dotted == key or dotted.startswith(key + ".") or key.startswith(dotted + "."):
            where = f"--set {override}"
    if kind == "extra_forbidden":
        return f"{where}: {dotted}: unknown key{_suggestion(schema, parts)}"
    got = "nothing" if kind == "missing" else _shown(fault["input"])
    if kind in ("value_error", "assertion_error"):
        reason = str(fault["ctx"]["error"]).replace("\n", " ")
        return f"{where}: {dotted}: {reason}, got {got}" if dotted else f"{where}: {reason}"
    expected = _EXPECTED.get(kind, fault["msg"][:1].lower() + fault["msg"][1:].replace("\n", " "))
    if kind in _EXPECTED:
        expected = expected.format(**fault.get("ctx", {}))
    return f"{where}: {dotted or 'the file'}: expected {expected}, got {got}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggestion(schema: type[Config], parts: list[Any]) -> str:
    """ " (did you mean ...?)" from the names valid in that table, or from the same name in another table."""
    unknown, names = str(parts[-1]), list(_names(schema))
    table = [str(part) for part in parts[:-1] if not isinstance(part, int)]
    local = [name[-1] for name in names if list(name[:-1]) == table]
    if near := difflib.get_close_matches(unknown, local, n=1, cutoff=0.6):
        return f", did you mean {near[0]!r}?"
    if elsewhere := [name for name in names if name[-1] == unknown]:
        return f", did you mean {'.'.join(elsewhere[0])!r}?"
    return f", expected one of {', '.join(local)}" if local else ""


def _names(schema: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in schema.model_fields.items():
        path = (*prefix, field.alias or name)
        yield path
        for model in models_in(field.annotation):
            yield from _names(model, path)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models named in a type annotation, also within unions and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _table(table: dict[str, Any], prefix: tuple[str, ...]) -> Iterator[str]:
    """Lines of one TOML table: its scalars and arrays first, then sub-tables and arrays of tables."""
    later: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            later.append((key, value))
        elif value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in later:
        path = (*prefix, key)
        heading = ".".join(map(_key, path))
        for item in value if isinstance(value, list) else (value,):
            yield f"\n[[{heading}]]" if isinstance(value, list) else f"\n[{heading}]"
            yield from _table(item, path)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    return repr(value)
