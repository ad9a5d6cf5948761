"""Docstrings of the API reference: present, and complete where they describe parameters."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("api_reference", ROOT / "docs" / "api_reference.py")
assert _SPEC is not None and _SPEC.loader is not None
api_reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(api_reference)

Documented = ast.FunctionDef | ast.ClassDef
UNSAID = {"self", "cls", "rng"}  # rng: a numpy random generator, the first parameter of all that samples


def source_files(module: str) -> list[Path]:
    """The Python files of a module, or of a package with its sub-packages."""
    path = ROOT.joinpath(*module.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def exported(module: str, path: Path) -> set[str] | None:
    """The names in __all__ of the nearest package of a file that has one, up to `module`; None for all names."""
    root = ROOT.joinpath(*module.split("."))
    for folder in path.parents:
        init = folder / "__init__.py"
        if folder in (*root.parents, path) or not init.is_file():
            break
        for node in ast.parse(init.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
    return None


def public_nodes(tree: ast.Module, names: set[str] | None) -> Iterator[Documented]:
    """Public functions and classes of a file, those in `names` unless it is None, and the classes' public methods."""
    for node in tree.body:
        if not isinstance(node, Documented) or node.name.startswith("_"):
            continue
        if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):  # the function says it
            continue
        if names is not None and node.name not in names:
            continue
        yield node
        methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
        yield from (method for method in methods if isinstance(node, ast.ClassDef) and not method.name.startswith("_"))


def parameters(node: Documented) -> list[str]:
    """Parameters of a function; of a class the fields, or the parameters of __init__."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        several = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *several)]
        return [name for name in names if name not in UNSAID and not name.startswith("_")]
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return parameters(child)
    fields = (child.target for child in node.body if isinstance(child, ast.AnnAssign))
    return [field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_")]


def undescribed(docstring: str, names: list[str]) -> list[str]:
    """Names that a docstring does not mention, if it describes another one of them as "name: ..." or "a, b: ..."."""
    described = [n for n in names if re.search(rf"(?<![\w.`]){n}(?:(?:, | and )\w+)*: ", docstring + " ")]
    return [n for n in names if not re.search(rf"\b{n}\b", docstring)] if described else []


def faults(module: str, path: Path) -> list[str]:
    """Lines for functions and classes without a docstring, and for parameters that a list of parameters lacks."""
    tree, found = ast.parse(path.read_text()), []
    for node in public_nodes(tree, exported(module, path)):
        where = f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        docstring = ast.get_docstring(node)
        if docstring is None and node in tree.body:  # a method may inherit the docstring of its protocol
            found.append(f"{where} has no docstring")
        elif missing := undescribed(docstring or "", parameters(node)):
            found.append(f"{where} describes some parameters, but not {', '.join(missing)}")
    return found


@pytest.mark.parametrize("module", api_reference.MODULES)
def test_a_docstring_describes_all_parameters_or_none(module: str) -> None:
    assert not [fault for path in source_files(module) for fault in faults(module, path)]


def test_the_rule_finds_what_it_is_for() -> None:
    assert undescribed("Adds.\n\na: metres.", ["a", "b"]) == ["b"]
    assert undescribed("Adds.\n\na, b: metres.", ["a", "b"]) == []
    assert undescribed("Adds a to b.\n\na: metres.", ["a", "b"]) == []
    assert undescribed("Adds.", ["a", "b"]) == []
    assert undescribed("Adds. size: (height, width). count: of clips.", ["size", "count", "seed"]) == ["seed"]


def test_the_modules_of_the_reference_exist() -> None:
    for module in api_reference.MODULES:
        assert source_files(module) and all(path.is_file() for path in source_files(module)), module
