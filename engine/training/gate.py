"""Gates: conditions on the metrics of a finished stage, without which the next stage does not start."""

import math
import operator
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from phys4d.engine.resume import OnResume
from phys4d.engine.run_folder.stages import Outcome

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_CONDITION = re.compile(r"\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", re.ASCII)


def parse(condition: str) -> tuple[str, float]:
    """Comparison and number of a condition such as "< 0.03". Raises ValueError if it is none."""
    found = _CONDITION.fullmatch(condition)
    number = float(found[2]) if found else math.nan
    if not found or not math.isfinite(number):
        raise ValueError('expected a comparison with a number, such as "< 0.03" or ">= 0.5"')
    return found[1], number


def holds(value: float | None, condition: str) -> bool:
    """Whether a value meets a condition; one that is not finite, or absent, meets none."""
    comparison, number = parse(condition)
    return value is not None and math.isfinite(value) and bool(_COMPARISONS[comparison](value, number))


def outcomes(gate: Mapping[str, str], values: Mapping[str, float | None]) -> dict[str, Outcome]:
    """Metric -> value, condition, and whether it was reached.

    gate: metric -> condition.
    values: metric -> value; absent ones reach nothing.
    """
    found = {}
    for metric, condition in gate.items():
        value = values.get(metric)
        finite = value if value is not None and math.isfinite(value) else None
        found[metric] = Outcome(value=finite, condition=condition, reached=holds(value, condition))
    return found


def _flat(gate: Any) -> Any:
    """Tables in a table as dotted keys: { train.loss = "< 1" } is { "train.loss" = "< 1" }."""
    if not isinstance(gate, dict):
        return gate
    flat: dict[str, Any] = {}
    for name, value in gate.items():
        inner = _flat(value)
        flat |= {f"{name}.{key}": one for key, one in inner.items()} if isinstance(inner, dict) else {name: value}
    return flat


def _checked(gate: dict[str, str]) -> dict[str, str]:
    for metric, condition in gate.items():
        try:
            parse(condition)
        except ValueError as error:
            raise ValueError(f"{metric}: {error}") from None
    return gate


Gate = Annotated[
    dict[str, str],
    BeforeValidator(_flat),
    AfterValidator(_checked),
    OnResume("the weights are the same as without the change, the gate is checked again", anytime=True),
]
"""Type of a Config field: metric -> condition, such as { warp_l1 = "< 0.03", train.loss = "< 1" }."""
