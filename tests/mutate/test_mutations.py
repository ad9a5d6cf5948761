"""The mutator on a module of a few lines: which faults it plants, which it does not, and that the tests see them."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.mutate.modules import MODULES
from tests.mutate.named import Named, named

HERE = Path(__file__).parent
TOY = (HERE / "toy.txt").read_text()


def loaded(name: str) -> ModuleType:
    """A file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"mutate_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


mutations = loaded("mutations")


def run(number: int) -> dict[str, Any]:
    """The names of the toy module with a fault."""
    names: dict[str, Any] = {}
    exec(compile(mutations.mutated(TOY, number), "toy", "exec"), names)
    return names


def test_every_fault_of_the_toy_module() -> None:
    assert [(m.line, m.column, m.change) for m in mutations.mutants(TOY)] == [
        (4, 16, "0.5 -> 1.0"),
        (7, 38, "True -> False"),
        (7, 21, "3 -> 4"),
        (9, 8, "x < 0 -> x >= 0"),
        (9, 12, "0 -> 1"),
        (11, 23, "up -> not up"),
        (11, 9, "-x * _RATE -> -x / _RATE"),
        (11, 9, "-x -> x"),
        (11, 31, "max(x, 0) -> min(x, 0)"),
        (11, 38, "0 -> 1"),
        (12, 12, "y + 1 -> y - 1"),
        (12, 12, "y + 1 -> y"),
        (12, 16, "1 -> 2"),
    ]


@pytest.mark.parametrize("number", range(13))
def test_every_fault_changes_what_the_module_does(number: int) -> None:
    def results(names: dict[str, Any]) -> list[object]:
        found: list[object] = []
        for arguments in ({}, {"x": 2}, {"x": 0}, {"x": 5, "up": False}, {"x": 0, "up": False}, {"x": -1}):
            try:
                found.append(names["scaled"](**arguments))
            except ValueError as error:
                found.append(str(error))
        return found

    true: dict[str, Any] = {}
    exec(TOY, true)
    assert results(true) == [-0.5, 0.0, 1.0, 6, 1, "x: 0 is below 0"]
    assert results(run(number)) != results(true)
    assert run(number)["scaled"].__doc__ == true["scaled"].__doc__


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("a[1:]", ["1 -> 2"]), ("a[:, -1]", ["-1 -> 1", "1 -> 2"]), ("a.detach().mean(1)", None),
        ("not a", ["not a -> a"]), ("a and b", ["a and b -> a or b"]), ("torch.where(c, a, b)", None),
        ("x if ok(x) else y", ["ok(x) -> not ok(x)"]), ("[x for x in y if x]", ["x -> not x"]),
        ("len(a) < n", ["len(a) < n -> len(a) >= n", "len(a) < n -> len(a) <= n"]),
        ("'a' + 'b'", []), ("(1,) + a", ["1 -> 2"]), ("f'{a + b}'", []), ("assert a + b", []), ("import a", []),
        ("x: int | None = 1.5", ["1.5 -> 3.0"]), ("@cache(1)\ndef f() -> 'a' + b: pass", []),
    ],
)  # fmt: skip
def test_what_becomes_of_an_expression(source: str, changes: list[str] | None) -> None:
    found = [m.change for m in mutations.mutants(source)]
    if changes is None:
        changes = {
            "a.detach().mean(1)": ["a.detach().mean(1) -> a.detach().sum(1)", "a.detach() -> a", "1 -> 2"],
            "torch.where(c, a, b)": ["torch.where(c, a, b) -> torch.where(c, b, a)"],
        }[source]
    assert found == changes


def test_a_number_beyond_the_last_is_refused() -> None:
    with pytest.raises(IndexError, match="13"):
        mutations.mutated(TOY, 13)


def test_every_named_fault_is_one_of_the_code_as_it_is(repository: Path) -> None:
    """Each changes the syntax tree of its module; a text that is not there once is refused by name."""
    faults = named()
    assert len(faults) >= 9 and all(fault.file in MODULES for fault in faults)
    for fault in faults:
        source = (repository / fault.file).read_text()
        assert ast.dump(fault.planted(source)) != ast.dump(ast.parse(source)), fault.name
    for source in ("x = 1\n", "y = y = 2\n"):
        with pytest.raises(ValueError, match=r"named.toml: a sign: f.py has 'y' . times: expected once"):
            Named("a sign", "f.py", "y", "-y").planted(source)
