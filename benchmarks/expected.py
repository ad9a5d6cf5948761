"""The time predicted for our kernels, beside the time that was measured."""

import functools
from typing import Any

from phys4d.benchmarks import geometry_predictions, predictions, results
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, GEOMETRY, NORM_ROPE

OURS = {"attention": "triton", "elementwise": "ours", "geometry": "ours"}  # the rival that is predicted, by kind


@functools.cache
def milliseconds(kind: str, case: str, part: str) -> float | None:
    """The predicted time of our kernel on an H200; None where nothing is predicted."""
    if kind == "geometry":
        if case not in geometry_predictions.STREAMING:
            return None
        shapes = next(c for c in GEOMETRY if c.name == case)
        return geometry_predictions.predict(results.committed("machine-code-geometry.json"), shapes, part)[0]
    known: dict[str, Any] = {c.name: c for c in (*ATTENTION, *NORM_ROPE, *ADAPTIVE_NORM)}
    if case not in known or part not in predictions.PARTS:
        return None
    return predictions.predict(known[case], part, results.committed("machine-code.json")).milliseconds


def annotated(kind: str, rows: list[dict[str, Any]], gpu: str) -> list[dict[str, Any]]:
    """The rows with `predicted_ms`: of our kernels on the GPU that predictions are for, else None."""
    predicted = predictions.GPU in gpu
    return [
        row if "refused" in row else row | {
            "predicted_ms": milliseconds(kind, row["case"], row["part"])
            if predicted and row["backend"] == OURS.get(kind) else None
        }
        for row in rows
    ]  # fmt: skip
