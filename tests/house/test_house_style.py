"""Rules of the house that a test can check: length of files, names, docstrings, links."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = (".py", ".cpp", ".cu", ".h", ".toml", ".txt")
SKIP = {".git", ".venv", "build", "dist", "runs", "data"}
# Written apart, so that this file does not contain them.
UNFINISHED = [
    "TO" + "DO",
    "FIX" + "ME",
    "XX" + "X",
    "NotImplemented" + "Error",
    "pragma: no " + "cover",
    "x" + "fail",
]


def tree(*suffixes: str) -> list[Path]:
    """The repository's files with these suffixes, each once (symlinked folders are not entered)."""
    found: list[Path] = []
    folders = [ROOT]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if (
                path.is_symlink()
                or path.name in SKIP
                or (path.is_dir() and path.name.startswith((".", "__py")))
            ):
                continue
            if path.is_dir():
                folders.append(path)
            elif path.suffix in suffixes:
                found.append(path)
    return found


def too_long(path: Path) -> bool:
    """Whether a file has over 300 lines and its first line does not say "over 300 lines:" and why."""
    lines = path.read_text().splitlines()
    return len(lines) > 300 and not re.search(r"over 300 lines: \w+", lines[0], re.IGNORECASE)


def test_a_file_of_over_300_lines_says_why_in_its_first_line():
    long = [str(path.relative_to(ROOT)) for path in tree(*CODE) if too_long(path)]
    assert not long


@pytest.mark.parametrize(
    ("first", "lines", "found"),
    [("", 300, False), ("", 301, True), ("# Over 300 lines: a table.", 301, False), ("# over 300 lines:", 301, True)],
)
def test_a_planted_long_file_is_found(tmp_path, first, lines, found):
    (tmp_path / "file.py").write_text(first + "\n" * lines)
    assert too_long(tmp_path / "file.py") == found


def test_nothing_is_left_unfinished():
    for path in tree(*CODE):
        text = path.read_text()
        assert not [word for word in UNFINISHED if re.search(rf"\b{word}\b", text)], path


def test_names_are_the_fields_own():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers"}
    assert not [path for path in tree(*CODE) if vague & {path.stem, *path.relative_to(ROOT).parts[:-1]}]


def test_test_files_have_unique_names():
    names = [path.name for path in tree(".py") if path.name.startswith("test_")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_public_names_are_documented():
    silent = []
    for path in tree(".py"):
        if path.relative_to(ROOT).parts[0] == "tests":
            continue
        module = ast.parse(path.read_text())
        if not ast.get_docstring(module) and module.body:
            silent.append(str(path.relative_to(ROOT)))
        for node in module.body:
            documented = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if documented and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not silent


@pytest.mark.parametrize("path", tree(".md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    broken = [t for t in targets if not re.match(r"[a-z]+:", t) and not (path.parent / t).exists()]
    assert not broken
