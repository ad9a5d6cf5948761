"""Imports inside kernels/: no circle, at the top of a file or inside a function, and native code knows no operator."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "kernels"


def imports() -> dict[str, set[str]]:
    """Every module of kernels/ and the modules of kernels/ that it names in an import, anywhere in the file."""
    files = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(("phys4d.kernels", *parts)).removesuffix(".__init__")] = path
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= (names & files.keys()) or ({node.module} & files.keys())
            elif isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & files.keys()
    return found


def test_no_module_imports_itself_through_others():
    left = imports()
    assert len(left) > 80
    while left:
        free = {module for module, needed in left.items() if not needed & left.keys()}
        assert free, f"a circle of imports among {sorted(left)}"
        left = {module: needed for module, needed in left.items() if module not in free}


def test_native_code_is_loaded_without_any_operator_of_ours():
    assert imports()["phys4d.kernels.native"] == set()
