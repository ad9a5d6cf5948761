"""Predicted times of the geometry kernels without loops on an H200, from bytes and machine code.

A kernel that visits every pixel once is limited by the bytes that it moves or by the number of its instructions, which
the compiler gives. The guessed shares of both rates are those of `predictions`. `kernels` is the content of
benchmarks/results/machine-code-geometry.json, as `machine_code --geometry` writes it.
"""

from typing import Any

from phys4d.benchmarks import geometry
from phys4d.benchmarks.cases import GEOMETRY
from phys4d.benchmarks.predictions import ARCH, GIGAHERTZ, GPU, ISSUE_SHARE, MEMORY_SHARE, SMS, Kernels

STREAMING = ("warp", "depth-scale-shift", "depth-all", "flow-l1", "flow-laplace", "scene-flow")  # cases without loops


def table(kernels: Kernels) -> str:
    """Markdown: per streaming case and part the bytes, their floor, the time to issue, and the predicted time."""
    lines = [
        f"Predicted for one {GPU}, never measured.", "",
        "| case | part | MB | floor us | issuing us | predicted us | of the floor | bound by |", "|---" * 8 + "|",
    ]  # fmt: skip
    for case in (case for case in GEOMETRY if case.name in STREAMING):
        parts: tuple[Any, ...] = ("forward", "backward")
        for part in parts:
            issue = issuing(kernels, case.name, part) * 1e6
            floor = 1e3 * (geometry.floor_ms(case, part, "ours", GPU) or 0.0)
            ms, bound = predict(kernels, case, part)
            lines.append(
                f"| {case.name} | {part} | {geometry.touched(case, part) / 1e6:,.0f} | {floor:.0f} | {issue:.0f} | "
                f"{1e3 * ms:.0f} | {floor / (1e3 * ms):.0%} | {bound} |"
            )
    return "\n".join(lines)


def predict(kernels: Kernels, case: geometry.GeometryCase, part: Any) -> tuple[float, str]:
    """The predicted milliseconds of a streaming case, and what they are bound by."""
    floor = geometry.floor_ms(case, part, "ours", GPU) or 0.0
    issue = issuing(kernels, case.name, part) * 1e3
    by = {"memory": floor / MEMORY_SHARE[part], "instructions": issue / ISSUE_SHARE}
    bound = max(by, key=lambda name: by[name])
    return by[bound], bound


def issuing(kernels: Kernels, case: str, part: str) -> float:
    """Seconds to issue all instructions of a case's kernels, one per clock in each quarter of every SM."""
    found = [
        kernel for kernel in kernels
        if (kernel["case"], kernel["arch"]) == (case, ARCH) and ("forward" in kernel["kernel"]) == (part == "forward")
    ]  # fmt: skip
    assert found, f"no kernel of {case} {part}: run phys4d.benchmarks.machine_code --geometry again"
    issued = sum(kernel["instructions"]["total"] * kernel["warps"] * kernel["programs"] for kernel in found)
    return issued / (SMS * 4 * GIGAHERTZ * 1e9)
