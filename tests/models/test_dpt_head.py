"""The DPT head: its levels by hand, mixing over time, chunks and parts that change nothing, bounded memory."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.engine.costs.memory import Peak, uncollected
from phys4d.kernels.elementwise import Rope
from phys4d.models.heads import DPTHead, GeometryHeads, HeadConfig, chunks, temporal
from phys4d.models.heads.dpt import taps_of_levels
from phys4d.models.heads.temporal import TemporalBlock
from phys4d.models.interface import Grid

GRID = Grid(9, 32, 48, (4, 8, 8))  # 3 x 4 x 6 tokens
KINDS = ("conv", "dpt", "linear")
Kind: Any = pytest.mark.parametrize("kind", KINDS)


def numbers(*shape: int, seed: int = 6) -> Tensor:
    """Standard normal numbers, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: Any) -> Any:
    """With weights that are nowhere zero or one."""
    draw = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return module


def inputs(batch: int = 2, taps: int = 2, grid: Grid = GRID) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Tapped tokens of 16 channels, latents of 5, and sigmas."""
    t, h, w = grid.tokens
    hidden = tuple(numbers(batch, t * h * w, 16, seed=k) for k in range(taps))
    return hidden, numbers(batch, 5, t, 2 * h, 2 * w, seed=9), torch.linspace(0.05, 0.7, batch)


@pytest.mark.parametrize(
    ("taps", "levels"),
    [
        (1, [[0], [0], [0], [0]]), (2, [[1], [1], [0], [0]]), (3, [[2], [2, 1], [1, 0], [0]]),
        (4, [[3], [2], [1], [0]]), (8, [[7, 6], [5, 4], [3, 2], [1, 0]]),
    ],
)  # fmt: skip
def test_the_deepest_taps_are_on_the_coarsest_levels(taps: int, levels: list[list[int]]) -> None:
    assert [sorted((t for n, t in taps_of_levels(taps) if n == level), reverse=True) for level in range(4)] == levels


def test_attention_over_time_by_hand() -> None:
    """Softmax over the latent frames of one place; pair i of a query turns by frame * 10000^(-2i / 64)."""
    block, x = randomised(TemporalBlock(130)), numbers(2, 3, 2, 2, 130)  # two attention heads
    out = block(x)
    normed = F.layer_norm(x, (130,), block.norms[0].weight, block.norms[0].bias)
    q, k, v = block.qkv(normed).unflatten(-1, (3, 2, 64)).unbind(4)

    def turned(y: Tensor) -> Tensor:
        angle = torch.arange(3)[:, None] * 10_000 ** (-torch.arange(32) / 32)
        pairs = torch.view_as_complex(y.unflatten(-1, (32, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones(3, 32), angle)[:, None, None, None]).flatten(-2)

    scores = torch.einsum("bthwnd,bshwnd->bhwnts", turned(q), turned(k)) / 8
    mixed = torch.einsum("bhwnts,bshwnd->bthwnd", scores.softmax(-1), v).flatten(-2)
    y = x + mixed @ block.out.weight.T + block.out.bias
    inner = F.layer_norm(y, (130,), block.norms[1].weight, block.norms[1].bias) @ block.widen.weight.T
    y = y + F.gelu(inner + block.widen.bias) @ block.narrow.weight.T + block.narrow.bias
    torch.testing.assert_close(out, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "dtype", "heads", "table"),
    [(8, torch.float32, 1, torch.float32), (130, torch.float64, 2, torch.float64)],
)
def test_attention_over_time_has_whole_heads_and_a_table_of_its_precision(
    width: int, dtype: torch.dtype, heads: int, table: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def make(*grid: Any, dtype: torch.dtype, **options: Any) -> Rope:
        asked.append(dtype)
        return Rope.make(*grid, dtype=dtype, **options)

    monkeypatch.setattr(temporal, "Rope", SimpleNamespace(make=make))
    block = TemporalBlock(width).to(dtype)
    assert block(numbers(1, 2, 1, 1, width).to(dtype)).dtype == dtype
    assert block.heads == heads and asked == [table]


def test_the_levels_by_hand() -> None:
    """Two taps: the deeper one at 1/2 and 1 times the tokens' resolution, the other at 2 and 4 times."""
    head = randomised(DPTHead(16, 2, 5, 3, GRID, 16))
    hidden, noisy, sigma = inputs()
    out = head(hidden, noisy, sigma)
    assert out.shape == (2, 9, 3, 32, 48)
    deep, shallow = (head.modulations[k](hidden[k], sigma).view(2, 3, 4, 6, 16) for k in (1, 0))
    levels = [project(x) for project, x in zip(head.projections, (deep, deep, shallow, shallow), strict=True)]

    def images(x: Tensor) -> Tensor:
        return x.flatten(0, 1).permute(0, 3, 1, 2)

    def clips(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).unflatten(0, (2, 3))

    halved = F.conv2d(images(levels[0] + head.place), *head.halving.parameters(), stride=2, padding=1)
    assert head.halving.weight.shape == (32, 32, 3, 3)
    y = head.temporal[0](clips(halved))
    assert y.shape == (2, 3, 2, 3, 32)
    y = F.interpolate(head.fusing[0](images(y)), (4, 6), mode="bilinear")
    y = images(head.temporal[1](clips(head.fusing[1](y + head.joining[0](images(levels[1] + head.place))))))
    y = F.pixel_shuffle(F.gelu(head.doubling[0](y)), 2)
    level = F.pixel_shuffle(images(head.reassembling[0](levels[2])), 2)
    level = level + images(torch.einsum("bcthw,dc->bthwd", noisy, head.edges.weight.flatten(1)) + head.edges.bias)
    latents = head.fusing[2](y + head.joining[1](level))
    for frame in range(9):
        t, k = (frame + 3) // 4, (frame + 3) % 4
        y = head.doubling[1](latents).view(2, 3, 4, 32, 8, 12)[:, t, k]
        level = head.reassembling[1](levels[3]).view(2, 3, 4, 6, 4, 128)[:, t, :, :, k].permute(0, 3, 1, 2)
        y = F.gelu(F.pixel_shuffle(y, 2)) + head.joining[2](F.pixel_shuffle(level, 4))
        y = F.pixel_shuffle(head.doubling[2](head.fusing[3](y)), 2)
        torch.testing.assert_close(out[:, frame], y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "width", "fine"), [(8, 48, [24, 3]), (16, 48, [24, 12, 3]), (32, 48, [24, 12, 8, 3]), (8, 8, [8, 3])]
)
def test_channels_halve_down_to_eight_at_the_strides_of_every_codec(side: int, width: int, fine: list[int]) -> None:
    grid = Grid(5, 2 * side, 3 * side, (4, side, side))
    head = randomised(DPTHead(6, 1, 5, 3, grid, width))
    assert [c.in_channels for c in head.doubling[2:]] == fine[:-1] and head.doubling[-1].out_channels == 4 * fine[-1]
    out = head((numbers(1, 12, 6),), numbers(1, 5, 2, 4, 6), torch.tensor([0.1]))
    assert out.shape == (1, 5, 3, 2 * side, 3 * side)


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (4, 4), (12, 12)])
def test_tokens_that_it_cannot_double_into_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"dpt head: a token of {rows}x{columns} pixels; needs a square of 8, 16, 32"):
        DPTHead(6, 1, 5, 1, Grid(5, 2 * rows, 2 * columns, (4, rows, columns)), 8)


@Kind
def test_a_frame_reaches_other_frames_in_the_dpt_head_alone(kind: str) -> None:
    """The last latent frame's tokens change; what is there of frames 0 to 4 stays, but in the head that mixes."""
    heads = randomised(GeometryHeads(HeadConfig(kind=kind, width=8), 16, 2, 5, GRID))  # type: ignore[arg-type]
    hidden, noisy, sigma = inputs()
    changed = tuple(x.clone() for x in hidden)
    for x in changed:
        x[:, -24:] = numbers(2, 24, 16, seed=31)
    for before, after in zip(heads(hidden, noisy, sigma), heads(changed, noisy, sigma), strict=True):
        frames = before.ndim - 3
        moved = (after - before).abs().movedim(frames, 0).flatten(1).amax(1)
        assert (moved[5:] > 1e-3).all() and ((moved[:5] > 1e-5).all() if kind == "dpt" else (moved[:5] == 0).all())


def gradients(heads: GeometryHeads, batch: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Depth, motion and the gradients of tokens; the gradients of weights, by name."""
    hidden, noisy, sigma = inputs(batch)
    for x in (*hidden, noisy):
        x.requires_grad_()
    depth, motion = heads(hidden, noisy, sigma)
    ((depth * numbers(*depth.shape)).sum() + (motion * numbers(*motion.shape)).sum()).backward()
    found = {name: p.grad for name, p in heads.named_parameters() if p.grad is not None}
    heads.zero_grad()
    return [depth, motion, *(x.grad for x in (*hidden, noisy) if x.grad is not None)], found


@Kind
@pytest.mark.parametrize(("batch", "limit"), [(1, 2), (2, 1), (2, 3)])
def test_chunks_change_neither_values_nor_gradients(
    kind: str, batch: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of up to `limit` latent frames, the last one shorter."""
    heads = randomised(GeometryHeads(HeadConfig(kind=kind, width=8), 16, 2, 5, GRID))  # type: ignore[arg-type]
    calls: list[int] = []
    recomputed = chunks.recomputed

    def noted(function: Any, *parts: Any) -> Tensor:
        calls.append(parts[0].shape[1])
        return recomputed(function, *parts)

    monkeypatch.setattr(chunks, "recomputed", noted)
    whole, weights = gradients(heads, batch)
    assert not calls and len(whole) == (3 if kind == "linear" else 5)  # the last tap alone, or all and the latents
    assert weights.keys() == {name for name, _ in heads.named_parameters()}
    assert all(gradient.any() for gradient in (*whole, *weights.values()))
    monkeypatch.setattr(chunks, "PIXELS", limit * 4 * 32 * 48)
    parts, chunked = gradients(heads, batch)
    if kind != "linear":
        sizes = [2, 1] if limit == 2 else [1, 1, 1] if limit == 1 else [3]
        assert calls == (4 if kind == "dpt" else 2) * batch * sizes
    assert chunked.keys() == weights.keys()
    for one, other in zip((*whole, *weights.values()), (*parts, *chunked.values()), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5 * float(one.detach().abs().max()))


@Kind
def test_frames_of_a_part_are_those_of_the_whole(kind: str) -> None:
    """And the gradients of all parts add up to that of the whole."""
    heads = randomised(GeometryHeads(HeadConfig(kind=kind, width=8), 16, 2, 5, GRID))  # type: ignore[arg-type]
    hidden, noisy, sigma = inputs()
    whole = heads.motion(hidden, noisy, sigma)
    whole.square().sum().backward()
    expected = {name: p.grad for name, p in heads.motion.named_parameters()}
    heads.zero_grad()
    parts = [heads.motion(hidden, noisy, sigma, own) for own in (slice(0, 2), slice(2, 3))]
    assert [part.shape[1] for part in parts] == [5, 4]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    for part in parts:
        part.square().sum().backward()
    for name, parameter in heads.motion.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["conv", "dpt"])
def test_memory_hardly_grows_with_the_length_of_a_clip(kind: str) -> None:
    """Twelve latent frames instead of three, beside the result and its gradient: less than twice; without chunks, three
    times as much as with them."""

    def most(frames: int, limit: int) -> int:
        grid = Grid(frames, 64, 64, (4, 8, 8))
        head = GeometryHeads(HeadConfig(kind=kind, width=32), 16, 2, 5, grid).depth  # type: ignore[arg-type]
        hidden, noisy, sigma = inputs(1, 2, grid)
        peak = Peak([*head.parameters(), *head.buffers(), *hidden, noisy, sigma])
        with pytest.MonkeyPatch.context() as patch, uncollected(), peak:
            patch.setattr(chunks, "PIXELS", limit)
            out = head(hidden, noisy, sigma)
            out.backward(torch.ones_like(out))
        return peak.most - 2 * out.nbytes

    short, long = most(9, 4 * 64 * 64), most(45, 4 * 64 * 64)
    assert long < 2 * short and most(45, 1 << 40) > 3 * long


@pytest.mark.parametrize("kind", ["dpt", "conv"])
def test_it_learns_a_tiny_target(kind: str) -> None:
    """Depth that lies in one channel of the tokens: the error falls to less than half of the best constant's."""
    torch.manual_seed(0)
    grid = Grid(5, 32, 32, (4, 8, 8))
    heads = GeometryHeads(HeadConfig(kind=kind, width=8), 16, 2, 5, grid)  # type: ignore[arg-type]
    hidden, noisy, sigma = inputs(2, 2, grid)
    truth = F.interpolate(hidden[1][..., 0].view(2, 2, 4, 4), 32, mode="bilinear").repeat_interleave(4, 1)[:, 3:]
    optimizer = torch.optim.Adam(heads.depth.parameters(), 3e-3)
    for _ in range(50):
        depth, _ = heads(hidden, noisy, sigma)
        loss = (depth.log() - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < truth.var().item() / 2
