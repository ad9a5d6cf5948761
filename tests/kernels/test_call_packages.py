"""Operators in programs that torch.export and AOTInductor make."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS

from phys4d.kernels.attention import Full, Spatial, ops
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
from phys4d.kernels.elementwise import QKNorm, adaptive_norm, qk_norm_rope
from tests.kernels.operator_calls import CALLS

OURS = {name: op for name, op in OPDEFS.items() if name.startswith("phys4d::")}


def test_the_operators_of_the_table_are_registered():
    assert len(CALLS) > 20 and len(OURS) >= 18


@pytest.mark.parametrize("name", OURS)
def test_no_operator_takes_a_list_that_may_be_empty(name):
    """An empty one arrives as None from a package of AOTInductor, which torch's dispatcher then refuses."""
    schema = OURS[name]._opoverload._schema
    lists = {argument.name for argument in schema.arguments if "List[" in str(argument.type)}
    assert lists <= {"sizes", "grid"}, schema  # three numbers and more


class Block(nn.Module):
    """Norms and the operator of attention, each with as little as it takes: all that may be absent is absent."""

    def forward(self, x: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        _, out = adaptive_norm(x, scale=scale)
        q = out.unflatten(-1, (2, 8))
        q, k = qk_norm_rope(q, q, QKNorm("rms", weight, weight), None, grid=(1, 1, 1))
        found = [q]
        for pattern, grid in ((Full(), None), (Spatial(), (2, 2, 2))):
            out, lse = torch.ops.phys4d.attention(
                q, k, q, *ops.flat_pattern(pattern, grid, None), None, None, 0.3, True, *NO_TRANSFORM
            )
            found += [out, lse]
        return tuple(found)


def _exported(module: nn.Module, arguments: tuple[Tensor, ...], folder: Any) -> Callable[..., Any]:
    return torch.export.export(module, arguments).module()


def _packaged(module: nn.Module, arguments: tuple[Tensor, ...], folder: Any) -> Callable[..., Any]:
    program = torch.export.export(module, arguments)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "block.pt2"))
    return torch._inductor.aoti_load_package(package)


@pytest.mark.parametrize("made", [_exported, pytest.param(_packaged, marks=pytest.mark.slow)])
def test_a_program_gives_what_the_module_gives(made, tmp_path):
    arguments = torch.randn(2, 8, 16), torch.randn(2, 16), torch.randn(8)
    expected = Block()(*arguments)
    with torch.no_grad():
        found = made(Block(), arguments, tmp_path)(*arguments)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)
