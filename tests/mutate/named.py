"""Faults that passed all tests once, by name: `python -m tests.mutate --named` plants each and runs the fast tests.

Unlike the mutants they change a whole term, weight, sign or index at once, and none of them may survive.
"""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.mutate.modules import MODULES
from tests.mutate.server import SURVIVED, outcomes

FILE = Path(__file__).with_name("named.toml")


@dataclass(frozen=True)
class Named:
    """A fault of named.toml: in the module at path `file`, `text` becomes `fault`.

    ValueError where the text is not there once, so that code which moves takes its fault along.
    """

    name: str
    file: str
    text: str
    fault: str

    def planted(self, source: str) -> ast.Module:
        if (count := source.count(self.text)) != 1:
            raise ValueError(f"{FILE.name}: {self.name}: {self.file} has {self.text!r} {count} times: expected once")
        return ast.parse(source.replace(self.text, self.fault))


def named(path: Path = FILE) -> list[Named]:
    """All of them."""
    return [Named(**entry) for entry in tomllib.loads(path.read_text())["fault"]]


def run_named(root: Path) -> list[str]:
    """The names of those that no fast test notices; prints each outcome."""
    faults, passed = named(), []
    for fault in faults:
        fault.planted((root / fault.file).read_text())
    for module in dict.fromkeys(fault.file for fault in faults):
        for fault, code in outcomes(root, module, MODULES[module], [f for f in faults if f.file == module]):
            print(f"{'SURVIVED' if code == SURVIVED else 'noticed'}: {fault.name} ({module})", flush=True)
            if code == SURVIVED:
                passed.append(fault.name)
    return passed
