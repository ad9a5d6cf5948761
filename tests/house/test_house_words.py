"""The words of the source: kinds of models are named in their folders, and sentences have technical subjects."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Words that speak of tensors, functions and devices as if they were people, or in riddles (see CONTRIBUTING.md).
PERSONS = re.compile(r"\b(who|whoever|whom|nobody|somebody|someone|told|tells|theirs)\b", re.IGNORECASE)


def files(*folders: str) -> list[Path]:
    """The Python files of these folders, without those behind the links in phys4d/."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not any(parent.is_symlink() for parent in path.parents)]


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and comment."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                yield node.body[0].lineno, docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def faults(text: str) -> list[tuple[int, str]]:
    """(line, word) of every word of `PERSONS` in a docstring or a comment."""
    return [(line, found[0]) for line, sentence in sentences(text) if (found := PERSONS.search(sentence))]


@pytest.mark.parametrize("folder", ["kernels", "engine", "phys4d", "benchmarks"])
def test_sentences_do_not_speak_of_persons(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}" for path in files(folder) for line, word in faults(path.read_text())
    ]
    assert not found


def test_a_planted_word_is_found() -> None:
    assert faults('"""Who serves."""\nx = "who"  # nobody asks\n') == [(1, "Who"), (2, "nobody")]
    assert faults('"""Tensors whose rows are equal."""\n') == []


def test_a_kind_of_model_is_named_in_its_own_folder_only() -> None:
    """Wan, the transformer that `tiny`, `small` and `wan21` share, is named in their folders and in the registry."""
    kinds = ("wan", "wan21", "tiny", "small")
    allowed = (*(f"phys4d/models/{kind}/" for kind in kinds), "phys4d/models/registry.py")
    for path in files("phys4d", "engine"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(allowed):
            found = re.search(r"\bWan|\bwan\b|\bUMT5", path.read_text())
            assert not found, f"{name} names {found[0]}"
