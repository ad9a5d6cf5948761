"""Small faults in a module's syntax tree: an operator, a sign, a constant, a condition, one at a time.

Left alone, since no test should hold them: docstrings, type hints, decorators, imports, text, what an error says, and
`strict` of zip, which guards what the code itself keeps.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_COMPARISONS: dict[type, type] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_BORDERS: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_PAIRS = [
    ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("clamp_min", "clamp_max"), ("mean", "sum"),
    ("floor", "ceil"), ("sin", "cos"), ("any", "all"), ("zeros", "ones"), ("zeros_like", "ones_like"),
    ("new_zeros", "new_ones"), ("zeros_", "ones_"),
]  # fmt: skip
_CALLS = dict(_PAIRS) | {b: a for a, b in _PAIRS}
_DROPPED = ("detach", "abs", "clamp", "clone")
_LEFT_ALONE = (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.JoinedStr)
_GUARDS = ("strict",)
_HINTS = ("annotation", "returns", "decorator_list")


class Fault(Protocol):
    """Something wrong that can be planted in a module."""

    def planted(self, source: str) -> ast.Module:
        """The syntax tree of the module `source` with it."""


@dataclass(frozen=True)
class Mutant:
    """One fault: its number within the module, line and column (from 1), the line, and what becomes of what there."""

    number: int
    line: int
    column: int
    text: str
    change: str

    def planted(self, source: str) -> ast.Module:
        return mutated(source, self.number)


def mutants(source: str) -> list[Mutant]:
    """All faults of a module, in the order of its syntax tree."""
    lines = source.splitlines()
    found = []
    for number, (node, changed, _) in enumerate(_sites(ast.parse(source))):
        change = f"{ast.unparse(node)} -> {ast.unparse(changed)}"
        found.append(Mutant(number, node.lineno, node.col_offset + 1, lines[node.lineno - 1].strip(), change))
    return found


def mutated(source: str, number: int) -> ast.Module:
    """The module's tree with this fault."""
    tree = ast.parse(source)
    for at, (node, changed, place) in enumerate(_sites(tree)):
        if at == number:
            owner, field, index = place
            if index is None:
                setattr(owner, field, changed)
            else:
                getattr(owner, field)[index] = changed
            return ast.fix_missing_locations(ast.copy_location(changed, node) and tree)
    raise IndexError(f"mutant {number}: the module has fewer")


_Place = tuple[ast.AST, str, int | None]


def _sites(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr, _Place]]:
    """Every expression that can be changed, what it becomes, and where it hangs."""
    for node, place in _walk(tree):
        if isinstance(node, ast.expr):
            for changed in (*_changes(node), *_negated(node, place)):
                yield node, changed, place


def _walk(node: ast.AST) -> Iterator[tuple[ast.AST, _Place]]:
    for field, value in ast.iter_fields(node):
        if field in _HINTS:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(child, ast.AST) or _is_left_alone(child):
                continue
            yield child, (node, field, index)
            yield from _walk(child)


def _is_left_alone(node: ast.AST) -> bool:
    guard = isinstance(node, ast.keyword) and node.arg in _GUARDS
    return guard or isinstance(node, _LEFT_ALONE) or _is_text(node)


def _is_text(node: ast.AST) -> bool:
    """Docstrings, other strings, and the list of public names."""
    if isinstance(node, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and not _joins(node):
        if type(node.op) in _OPERATORS:
            yield _with(node, op=_OPERATORS[type(node.op)]())
        if isinstance(node.op, ast.Add):
            yield node.left
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=_OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        operator, sides = type(node.ops[0]), (node.left, node.comparators[0])
        yield _with(node, ops=[_COMPARISONS[operator]()])
        if operator in _BORDERS and any(_counts(side) for side in sides):
            yield _with(node, ops=[_BORDERS[operator]()])
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _constants(value: object) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
    elif isinstance(value, float):
        yield ast.Constant(2 * value if value else 1.0)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in _CALLS:
        yield _with(node, func=ast.Name(_CALLS[function.id], ast.Load()))
    if isinstance(function, ast.Attribute):
        if function.attr in _CALLS:
            yield _with(node, func=_with(function, attr=_CALLS[function.attr]))
        if function.attr in _DROPPED and not (isinstance(function.value, ast.Name) and function.value.id == "torch"):
            yield function.value
        if function.attr == "where" and len(node.args) == 3:
            yield _with(node, args=[node.args[0], node.args[2], node.args[1]])


def _negated(node: ast.expr, place: _Place) -> Iterator[ast.expr]:
    """A bare condition; of a comparison or of a sum of conditions the operator is changed instead."""
    owner, field, _ = place
    condition = field == "test" or (isinstance(owner, ast.comprehension) and field == "ifs")
    if condition and not isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
        yield ast.UnaryOp(ast.Not(), node)


def _joins(node: ast.BinOp) -> bool:
    """Sums of texts or tuples, unions of types and formatted text."""
    literal = (ast.JoinedStr, ast.Tuple, ast.List)
    return any(isinstance(s, literal) or _is_text(s) for s in (node.left, node.right))


def _counts(node: ast.expr) -> bool:
    """Whether a side of a comparison is a count, so that its border can be met; of measured numbers it never is."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "len"
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value > 0


def _with(node: ast.AST, **fields: object) -> ast.expr:
    """A shallow copy with other fields."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    assert isinstance(changed, ast.expr)
    return changed
