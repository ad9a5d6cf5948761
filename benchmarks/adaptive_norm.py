"""Gate, residual, LayerNorm and modulation beside the models' code, torch.compile, and published kernels.

"eager" is the model's own code. Wan computes in float32 between the layers (diffusers, WanTransformerBlock) and, where
not all tokens share a row of the modulation, makes one row per token beforehand. CogVideoX and Open-Sora compute in
their own dtype; Open-Sora computes both modulations and selects one per frame. Where several tokens share a row,
"eager, rows" is hand-written code without one row per token: a view by runs of tokens, or rows gathered by index.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.benchmarks import layer_norms
from phys4d.benchmarks.cases import DTYPE, AdaptiveNormCase
from phys4d.benchmarks.comparison import Runner, refused
from phys4d.benchmarks.layer_norms import EPSILON, Absent, Norm
from phys4d.benchmarks.timing import Prepared, Work, compiled, on_gpu
from phys4d.kernels.elementwise import TokenRows, adaptive_norm, adaptive_norm_reference

TABLES = ("gate", "scale", "shift")
Leaves = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]  # the residual stream, and the input of the next layer


@dataclass(frozen=True)
class Inputs:
    """Tensors of a case. All that require gradients are leaves.

    Attributes:
        tokens: x and y [1, S, C]; with an affine norm weight and bias [C].
        rows: gate, scale and shift [R, C], parts of one table.
        index: [1, S]: the row of each token.
        masked: [1, T, 1, 1] bool, for Open-Sora: the element of `pair` that a frame uses; else None.
        pair: gate, scale and shift [2, C], the two rows of Open-Sora; else empty.
        gradients: of the loss with respect to the stream and to the result, [1, S, C].
    """

    tokens: Leaves
    rows: Leaves
    index: Tensor
    masked: Tensor | None
    pair: Leaves
    gradients: Pair


@dataclass(frozen=True)
class Rival:
    """An implementation of a case: a function, and its leaves by argument name."""

    call: Callable[..., Pair]
    leaves: Leaves

    def forward(self) -> Work:
        """One call without gradients."""
        return torch.no_grad()(lambda: self.call(**self.leaves))

    def backward(self, gradients: Pair) -> Prepared:
        """A call that computes the gradients of all leaves, after a forward pass that is not timed."""
        leaves = list(self.leaves.values())
        return Prepared(lambda: self.call(**self.leaves), lambda outs: torch.autograd.grad(outs, leaves, gradients))


def cut(case: AdaptiveNormCase, tokens: int) -> AdaptiveNormCase:
    """The case with all channels on at most `tokens` tokens; one row per token stays one row per token."""
    if case.rows == case.tokens:
        return dataclasses.replace(case, tokens=tokens, rows=tokens)
    return dataclasses.replace(case, tokens=tokens - tokens % case.rows)


def inputs(case: AdaptiveNormCase, device: torch.device, dtype: torch.dtype = DTYPE) -> Inputs:
    """Random tensors in `dtype`, modulation in the dtype of the case, float32 in a float32 case.

    Makes no large temporary tensor: a higher memory peak here would hide the growth that `cpu_suite` measures.
    """
    generator = torch.Generator(device=device).manual_seed(0)
    precision = torch.promote_types(dtype, case.table)

    def draw(*shape: int, dtype: torch.dtype = precision) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(generator=generator)

    x, y, dstream, dout = (draw(1, case.tokens, case.width, dtype=dtype) for _ in range(4))
    tokens = {"x": x.requires_grad_(), "y": y.requires_grad_()}
    if case.affine:
        tokens |= {name: nn.Parameter(draw(case.width)) for name in ("weight", "bias")}
    chosen = "Open-Sora" in case.model
    table = draw(2 if chosen else case.rows, 6, case.width)
    pair: Leaves = {}
    masked = None
    if chosen:
        masked = torch.arange(case.rows, device=device)[None, :, None, None] >= case.rows // 3
        pair, table = _parts(table), table[masked.flatten().long()]
    if case.mixed:  # tokens of the first frame use the first row, as in image-to-video
        index = (torch.arange(case.tokens, device=device) >= case.tokens // 31).long()[None]
    else:
        index = torch.arange(case.rows, device=device).repeat_interleave(case.tokens // case.rows)[None]
    return Inputs(tokens, _parts(table) if case.modulated else {}, index, masked, pair, (dstream, dout))


def _parts(table: Tensor) -> Leaves:
    """Gate, scale and shift as leaves: strided views of a table [..., 6, C]."""
    return {name: table[..., k, :].detach().requires_grad_() for k, name in enumerate(TABLES)}


def _of_tokens(made: Inputs) -> Leaves:
    """One row per token [1, S, C], as Wan makes them; a single row for all tokens stays single."""
    gate = made.rows["gate"]
    if len(gate) == 1:
        return made.rows
    table = gate.new_empty(*made.index.shape, 6, gate.shape[1])
    for k, name in enumerate(TABLES):
        for part, index in zip(table[:, :, k].split(64, dim=1), made.index.split(64, dim=1), strict=True):
            part.copy_(made.rows[name].detach()[index])
    return _parts(table)


def ours(made: Inputs, mixed: bool) -> Rival:
    """`adaptive_norm`; a row index that is not made of runs is sorted beforehand, once for all layers."""
    rows = TokenRows.of(made.index, int(made.index.max()) + 1) if mixed else None

    def call(x: Tensor, y: Tensor, **rest: Any) -> Pair:
        return adaptive_norm(x, y, epsilon=EPSILON, rows=rows, **rest)

    return Rival(call, made.tokens | made.rows)


def own_code(case: AdaptiveNormCase, made: Inputs, norm: Norm) -> Rival:
    """The model's own code, with `norm` as its LayerNorm."""
    if made.masked is not None:
        return Rival(_chosen(made.masked, norm), made.tokens | made.pair)
    form = _wan if case.model.startswith("Wan") else _plain
    return Rival(form(norm), made.tokens | (_of_tokens(made) if case.modulated else {}))


def _wan(norm: Norm) -> Callable[..., Pair]:
    def call(
        x: Tensor, y: Tensor, gate: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        **affine: Tensor,
    ) -> Pair:  # fmt: skip
        stream = x + y if gate is None else (x.float() + y * gate).type_as(x)
        out = norm(stream.float())
        if scale is not None and shift is not None:
            out = out * (1 + scale) + shift
        return stream, out.type_as(x)

    return call


def _plain(norm: Norm) -> Callable[..., Pair]:
    def call(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, **affine: Tensor) -> Pair:
        stream = x + gate * y
        return stream, norm(stream) * (1 + scale) + shift

    return call


def _chosen(masked: Tensor, norm: Norm) -> Callable[..., Pair]:
    """Open-Sora's code: computes both modulations of all tokens and selects one per frame."""

    def choose(first: Tensor, second: Tensor) -> Tensor:
        frames = (1, masked.shape[1], -1, first.shape[-1])
        return torch.where(masked, second.view(frames), first.view(frames)).view(first.shape)

    def call(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> Pair:
        stream = x + choose(gate[0] * y, gate[1] * y)
        first, second = (norm(stream) * (1 + scale[k]) + shift[k] for k in (0, 1))
        return stream, choose(first, second)

    return call


def by_rows(case: AdaptiveNormCase, made: Inputs, norm: Norm) -> Rival:
    """Hand-written code for few distinct rows: a view of tokens by runs that share a row, or rows gathered by index."""
    form = _wan(norm) if case.model.startswith("Wan") else _plain(norm)

    def call(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, **affine: Tensor) -> Pair:
        if case.mixed:
            return form(x, y, gate[made.index], scale[made.index], shift[made.index])
        runs = (t.unflatten(1, (case.rows, -1)) for t in (x, y))
        stream, out = form(*runs, gate[:, None], scale[:, None], shift[:, None])
        return stream.flatten(1, 2), out.flatten(1, 2)

    return Rival(call, made.tokens | made.rows)


def rivals(case: AdaptiveNormCase, made: Inputs) -> dict[str, Rival]:
    """Ours and the eager implementations, by name."""
    norm = _norm(layer_norms.torch_norm, case, made)
    found = {"ours": ours(made, case.mixed), "eager": own_code(case, made, norm)}
    if case.modulated and 1 < case.rows < case.tokens:
        found["eager, rows"] = by_rows(case, made, norm)
    return found


def compilations(found: dict[str, Rival], modes: dict[str, str | None]) -> dict[str, Rival]:
    """The eager implementations under torch.compile: {"compiled": None} gives "compiled" and "compiled, rows"."""
    torch.compiler.reset()  # it stops after eight compilations of one function, and the cases share functions
    return {
        name.replace("eager", word): Rival(compiled(rival.call, mode), rival.leaves)
        for word, mode in modes.items()
        for name, rival in found.items()
        if name.startswith("eager")
    }


def _norm(make: Callable[..., Norm], case: AdaptiveNormCase, made: Inputs) -> Norm:
    x = made.tokens["x"].detach()
    like = x[0, 0].float() if case.model.startswith("Wan") else x[0, 0]
    return make(case.width, like, made.tokens.get("weight"), made.tokens.get("bias"))


def makers(
    case: AdaptiveNormCase, device: torch.device
) -> tuple[dict[str, Callable[[], Runner]], list[dict[str, Any]]]:
    """The implementations of the case, and a row with the reason for each that cannot run; errors are of the result."""
    made = inputs(case, device)
    found = rivals(case, made)
    rows: list[dict[str, Any]] = []
    if on_gpu(device):
        modes = {"compiled": None, "compiled, max-autotune": "max-autotune-no-cudagraphs"}
        found |= compilations(found, modes)
    else:
        rows.append(refused(case.name, "compiled", "measured on CUDA, and on a CPU by adaptive_norm_cpu only"))
    for name, make in layer_norms.NORMS.items():
        try:
            found[f"eager, {name}"] = own_code(case, made, _norm(make, case, made))
        except Absent as why:
            rows.append(refused(case.name, f"eager, {name}", str(why)))
    some = slice(0, min(256, case.tokens))
    expected = truth(made, some)

    def runner(rival: Rival) -> Runner:
        forward, backward = rival.forward(), rival.backward(made.gradients)

        def verdict() -> tuple[float, bool]:
            error = float((forward()[1][:, some].double() - expected).abs().max())
            return error, all(torch.equal(a, b) for a, b in zip(backward(), backward(), strict=True))

        return Runner({"forward": forward, "backward": backward}, verdict)

    ready: dict[str, Callable[[], Runner]] = {name: partial(runner, rival) for name, rival in found.items()}
    name = "FlashInfer, forward"
    try:
        work = _flashinfer(case, made)
        ready[name] = lambda: Runner({"forward": work}, lambda: _same(work, expected, some))
    except Absent as why:
        rows.append(refused(case.name, name, str(why)))
    except Exception as fault:  # a library may fail in its own way; its row holds the exception
        rows.append(refused(case.name, name, fault))
    return ready, rows


def _flashinfer(case: AdaptiveNormCase, made: Inputs) -> Callable[[], Pair]:
    x, y = (made.tokens[name].detach() for name in ("x", "y"))
    tables = {name: rows.detach()[made.index] for name, rows in made.rows.items()}
    return layer_norms.flashinfer(case, x, y, tables)


def _same(work: Callable[[], Pair], expected: Tensor, some: slice) -> tuple[float, bool]:
    first, second = work(), work()
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return float((first[1][:, some].double() - expected).abs().max()), same


def truth(made: Inputs, some: slice = slice(None)) -> Tensor:
    """The result of the chosen tokens by the definition, in float64."""
    leaves = {name: t.detach().double() for name, t in (made.tokens | made.rows).items()}
    x, y = (leaves.pop(name)[:, some] for name in ("x", "y"))
    gate, weight, bias, scale, shift = (leaves.get(name) for name in ("gate", "weight", "bias", "scale", "shift"))
    index = made.index[:, some] if made.rows else None
    return adaptive_norm_reference(x, y, gate, weight, bias, scale, shift, index, "layer", EPSILON)[1]
