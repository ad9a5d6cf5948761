"""All teachers by name. A new teacher is one file beside this one that defines SPEC, and one line here."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phys4d.engine import toml_text
from phys4d.engine.errors import UserError

if TYPE_CHECKING:
    from phys4d.teachers.interface import DepthTeacher, FlowTeacher, TeacherSpec

# Name on the command line -> module. Modules are imported when they are chosen: each may need an extra of its own.
DEPTH_TEACHERS = {
    "small": "phys4d.teachers.small_depth",
    "depth-anything": "phys4d.teachers.depth_anything",
    "video-depth-anything": "phys4d.teachers.video_depth_anything",
}
FLOW_TEACHERS = {
    "dis": "phys4d.teachers.dis",
    "raft": "phys4d.teachers.raft",
    "sea-raft": "phys4d.teachers.sea_raft",
}
_EXTRAS = {"torchvision": "raft"}  # where a module is not of the extra [teachers]
_KINDS = {"depth": ("--teacher", DEPTH_TEACHERS), "flow": ("--flow", FLOW_TEACHERS)}


def choose(
    depth: str,
    flow: str,
    folders: Mapping[str, Path | None],
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
    scenes_option: str = "--scenes",
) -> tuple["DepthTeacher", "FlowTeacher"]:
    """The depth teacher and the flow teacher of these names, checked but not yet trained or loaded.

    Args:
        depth, flow: names in DEPTH_TEACHERS and FLOW_TEACHERS.
        folders: "scenes" and "weights" of the depth teacher; None for one that is not given.
        settings: of the depth teacher; None for one that is not given.
        changes: further settings, "depth.NAME=VALUE" or "flow.NAME=VALUE", the value as TOML or else as text.
        scenes_option: of the command that gives "scenes", for messages.

    Raises:
        UserError: an unknown teacher, a folder or setting that the chosen teacher does not take, a folder that it needs
            and that is not given, or whatever the teacher refuses.
    """
    given: dict[str, dict[str, Any]] = {"depth": {}, "flow": {}}
    for change in changes:
        kind, name, value = _parsed(change)
        given[kind][name] = value
    given["depth"] |= {name: value for name, value in (settings or {}).items() if value is not None}
    named = {name: folder for name, folder in folders.items() if folder is not None}
    options = {"scenes": scenes_option, "weights": "--weights"}
    return _make("depth", depth, named, given["depth"], options), _make("flow", flow, {}, given["flow"], options)


def _make(kind: str, name: str, folders: dict[str, Path], settings: dict[str, Any], options: Mapping[str, str]) -> Any:
    from phys4d.engine.config import build

    where, spec = f"{_KINDS[kind][0]} {name}", teacher_spec(kind, name)
    known = spec.config.model_fields
    takes = [options[folder] for folder in spec.needs] + [f"{kind}.{setting}" for setting in known]
    strange = [options[folder] for folder in folders if folder not in spec.needs]
    strange += [f"{kind}.{setting}" for setting in settings if setting not in known]
    if strange:
        raise UserError(f"{strange[0]}: {where} does not take it: it takes {', '.join(takes) or 'nothing'}")
    if missing := [folder for folder in spec.needs if folder not in folders]:
        raise UserError(f"{where}: needs {options[missing[0]]} DIR, see docs/add-a-teacher.md")
    return spec.teacher(build(spec.config, settings, where), **folders)


def teacher_spec(kind: str, name: str) -> "TeacherSpec":
    """The entry of the teacher of this name; kind: "depth" or "flow".

    UserError where there is none, or where it needs a package that is not installed or does not load.
    """
    option, modules = _KINDS[kind]
    if name not in modules:
        raise UserError(f"{option} {name}: expected one of {', '.join(modules)}")
    try:
        return import_module(modules[name]).SPEC
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("phys4d"):
            raise
        extra = _EXTRAS.get(error.name, "teachers")
        raise UserError(f"{option} {name}: needs the module {error.name}: pip install 'phys4d[{extra}]'") from None
    except RuntimeError as error:  # of a package that is built for another version of torch
        reason = " ".join(str(error).split())
        raise UserError(f"{option} {name}: a package does not load ({reason}): install it for this torch") from None


def _parsed(change: str) -> tuple[str, str, Any]:
    """kind, setting and value of "kind.setting=value"."""
    key, equals, text = change.partition("=")
    kind, dot, name = key.strip().partition(".")
    if not (equals and dot and name) or kind not in _KINDS:
        raise UserError(f"--set {change}: expected depth.NAME=VALUE or flow.NAME=VALUE, such as depth.batch=2")
    try:
        return kind, name, toml_text.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return kind, name, text
