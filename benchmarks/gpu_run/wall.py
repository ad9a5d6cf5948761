"""Predicted seconds of every case of the run, printed beside those that it takes.

A part of a case takes rounds x rivals x the time of one call, at most its limit of seconds, and its warm-up. The time
of a call is that of the floor times a guessed factor, the mean over the rivals. Compiling is counted apart. The
constants are guesses for one H200 with 16 cores, made to be compared with a run.
"""

from typing import Any

from phys4d.benchmarks import geometry
from phys4d.benchmarks.cases import AttentionCase, BlockCase, GeometryCase, NormRopeCase
from phys4d.benchmarks.comparison import SUSTAINED, Effort
from phys4d.kernels.attention import Full, Spatial, Temporal

GPU = "H200"
START = 20.0  # a process: imports, CUDA context
CASE = 1.5  # inputs, float64 truth, memory returned
KERNEL = 1.5  # compiling one kernel of ours
COMPILED = 12.0  # torch.compile of forward and backward of one rival
TUNED = 40.0  # the same with max-autotune
FLUSH = 0.35  # ms: overwriting the cache and waiting, around each timed call
PARTS = ("forward", "backward")
# Times of rivals over the floor, mean over rivals, forward and backward.
FACTORS = {
    "full": (1.9, 2.9), "rows": (4.0, 4.0), "window": (9.0, 9.0), "elementwise": (4.0, 5.0), "geometry": (8.0, 10.0),
}  # fmt: skip
CALLS = 12  # calls of each part outside of the rounds: examination, error, bit-equality, warm-up, host time, memory


def attention(case: AttentionCase, effort: Effort) -> float:
    """Seconds of a case of attention, with the rivals that torch alone gives."""
    tflops, terabytes = SUSTAINED[GPU]
    kind = "full" if isinstance(case.pattern, Full | Spatial) else "rows"
    kind = kind if isinstance(case.pattern, Full | Spatial | Temporal) else "window"
    rivals, compiled, kernels = {"full": (10, 1, 4), "rows": (12, 2, 2), "window": (6, 1, 4)}[kind]
    floors = [max(case.flops(p) / tflops / 1e9, case.bytes(p) / terabytes / 1e9) for p in PARTS]  # type: ignore[arg-type]
    return _timed(floors, FACTORS[kind], rivals, effort) + compiled * COMPILED + kernels * KERNEL + CASE


def elementwise(case: Any, effort: Effort, tuned: bool) -> float:
    """Seconds of a case of norm and rotation, or of gate, residual, norm and modulation; tuned: with max-autotune."""
    terabytes = SUSTAINED[GPU][1]
    floors = [case.bytes(part) / terabytes / 1e9 for part in PARTS]
    several = not isinstance(case, NormRopeCase) and case.modulated and 1 < case.rows < case.tokens
    codes = 2 if several else 1
    rivals = 1 + codes * (3 if tuned else 2)
    compiling = codes * (COMPILED + tuned * TUNED) + 4 * KERNEL
    return _timed(floors, FACTORS["elementwise"], rivals, effort) + compiling + CASE


def of_geometry(case: GeometryCase, effort: Effort) -> float:
    """Seconds of a case of 4D geometry."""
    if case.op == "chamfer":
        floors = [geometry.floor_ms(case, "forward", "ours, exhaustive", GPU) or 0.0, 0.1]
        return _timed(floors, (3.0, 3.0), 4, effort) + 8 * KERNEL + CASE + case.shape[0] ** 2 / 1e10
    floors = [geometry.floor_ms(case, part, "ours", GPU) or 0.0 for part in ("forward", "backward")]
    compiled = {"warp": 3, "flow_warp": 2}.get(case.op, 1)
    return _timed(floors, FACTORS["geometry"], 2 + 2 * compiled, effort) + compiled * COMPILED + 4 * KERNEL + CASE


def block(case: BlockCase, effort: Effort) -> float:
    """Seconds of a case of a whole block."""
    tflops = SUSTAINED[GPU][0]
    floors = [case.flops(part) / tflops / 1e9 for part in ("forward", "forward and backward")]  # type: ignore[arg-type]
    return _timed(floors, (2.5, 3.0), 6, effort, graph=False) + 2 * COMPILED + 8 * KERNEL + CASE + 3.0


def _timed(
    floors: list[float], factors: tuple[float, float], rivals: int, effort: Effort, *, graph: bool = True
) -> float:
    """Seconds of both parts of all rivals; graph: every call of the second part runs the first again, untimed."""
    forward, second = (floor * factor for floor, factor in zip(floors, factors, strict=True))
    if graph:
        second += forward
    total = 0.0
    for call in (forward, second):
        a_round = rivals * (call + FLUSH) / 1e3
        rounds = max(3.0, min(effort.rounds, effort.seconds / a_round))
        total += a_round * (rounds + CALLS)
    return total
