"""Host time of the checks of one call, in microseconds: the arguments of an operator, and what a drop-in looks at.

`host_cost` measures them with the rest. A drop-in looks at its modules in every call, since hooks, offloading and
adapters may come at any time (`integrate/diffusers/bypass.py`).
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks.timing import Timing
from phys4d.kernels.attention import Full
from phys4d.kernels.attention.api import choose
from phys4d.kernels.attention.call import Call
from phys4d.kernels.elementwise import Rope
from phys4d.kernels.elementwise.norm_rope import check_norm_rope
from phys4d.kernels.integrate.diffusers import accelerate, registered_families
from phys4d.kernels.integrate.diffusers.bypass import unfit
from phys4d.kernels.integrate.diffusers.kit import run

FAMILY, KIND = "wan", "rms_across_heads"


def checks() -> dict[str, Callable[[], Any]]:
    """Name -> one check: of an operator's arguments, or of a module that a drop-in would read and not call."""
    grid = (4, 2, 1)
    q = torch.randn(1, 8, 2, 16)
    weight, rope = torch.ones(16), Rope.make(grid, (8, 4, 4))
    call = Call(q, q, q, grid, Full(), None, None, None, False)
    example = next(e for family in registered_families() for name, e in family.examples.items() if name == FAMILY)
    model, arguments = example()
    accelerate(model)
    seen: list[Any] = []
    attn = next(module for module in model.modules() if hasattr(module, "processor"))
    attn.register_forward_pre_hook(lambda module, given, options: seen.append((given, options)), with_kwargs=True)
    run(model, model, arguments, trained=False)  # which makes the table of the rotation
    pair = _rotation_of(*seen[0])
    block, norm = model.blocks[0].forward, model.blocks[0].norm2
    tokens = torch.randn(1, 8, attn.inner_dim)
    count = pair[0].numel() // pair[0].shape[-1]

    def module() -> None:
        assert unfit(tokens, tokens) is None and attn.processor.qk_norm(KIND, attn, tokens) is not None

    def rotation() -> None:
        assert not isinstance(attn.processor.setting.rotation.table(pair, count, tokens.device), str)

    def of_block() -> None:
        assert block.bypass(norm, tokens.device) is None

    return {
        "attention: arguments": lambda: Call(q, q, q, grid, Full(), None, None, None, False),
        "attention: choice of the backend": lambda: choose(call, "auto"),
        "norm and rotation: arguments": lambda: check_norm_rope(q, weight, None, "rms", rope, grid),
        "drop-in: an attention module, its norms and tokens": module,
        "drop-in: the table of a rotation": rotation,
        "drop-in: a norm of a block": of_block,
    }


def _rotation_of(given: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The cosines and sines among the arguments of an attention module."""
    return next(value for value in (*given, *options.values()) if isinstance(value, tuple))


def measure(*, calls: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each check: microseconds of the processor, each sample the mean of `calls` calls."""
    rows = []
    for name, check in checks().items():
        samples = []
        for number in range(rounds + 1):
            begin = time.thread_time()
            for _ in range(calls):
                check()
            if number:  # the first warms up
                samples.append((time.thread_time() - begin) / calls * 1e6)
        timing = Timing.of(samples)
        rows.append({"check": name, "us": timing.median, "us_p20": timing.p20, "us_p80": timing.p80})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: median and 20th to 80th percentile of every check."""
    lines = ["| check of one call | us | 20th to 80th percentile |", "|---|---|---|"]
    lines += [f"| {row['check']} | {row['us']:.1f} | {row['us_p20']:.1f} to {row['us_p80']:.1f} |" for row in rows]
    return "\n".join(lines)
