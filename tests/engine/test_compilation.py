"""Blocks that are compiled one by one: what is compiled for each size, and what is refused."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from phys4d.engine.errors import UserError
from phys4d.engine.training import compilation
from phys4d.engine.training.compilation import UncompiledBlock, compile_blocks


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made and not compiled; what was made before, and changed settings, are gone afterwards."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):
        yield
    torch._dynamo.reset()


class Halves(nn.Module):
    """Needs the number of tokens as a number, like a block that sends parts of them."""

    def forward(self, x: Tensor) -> Tensor:
        half, rest = divmod(x.shape[1], 2)
        return torch.cat([x[:, half + rest :], x[:, : half + rest]], 1) * 2


class Printing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x


def test_each_size_is_compiled_for_itself_with_and_without_gradients() -> None:
    blocks = [Halves(), Halves()]
    compile_blocks(blocks, "none", by_size=True)
    for size in range(2, 12):  # more than torch's own limit, 8
        x = torch.arange(float(size))[None].requires_grad_()
        expected = 2 * torch.roll(x, size // 2, 1)
        assert torch.equal(blocks[0](x), expected)
        with torch.no_grad():
            assert torch.equal(blocks[1](x), expected)


def test_otherwise_a_second_size_is_of_any_size() -> None:
    """Which a block that needs the number itself cannot take: the error names it."""
    blocks = [nn.Identity(), Halves()]
    compile_blocks(blocks, "none")
    assert torch.equal(blocks[1](torch.ones(1, 4)), torch.full((1, 4), 2.0))
    with pytest.raises(UncompiledBlock, match="^compile: block 1 cannot be compiled whole: .*divmod"):
        blocks[1](torch.ones(1, 6))


def test_clips_of_too_many_sizes_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_GRAPHS", 3)
    torch._dynamo.config.recompile_limit = 1
    block = Halves()
    compile_blocks([block], "none", by_size=True)
    for size in (2, 3, 4):
        block(torch.ones(1, size))
    with pytest.raises(UserError, match="^compile: block 0 was compiled 3 times, for clips of too many sizes: take"):
        block(torch.ones(1, 5))


def test_a_block_that_is_no_single_graph_is_named() -> None:
    blocks = [Halves(), Printing()]
    compile_blocks(blocks, "none")
    with pytest.raises(UncompiledBlock, match="^compile: block 1 cannot be compiled whole: "):
        blocks[1](torch.ones(1, 2))
