"""The public attention function, and the choice of the backend that computes it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from phys4d.kernels.attention import measured
from phys4d.kernels.attention.backends import BACKENDS, BackendChoice, triton
from phys4d.kernels.attention.call import Call, autocast_dtype, lengths_of
from phys4d.kernels.attention.context import Context, Strategy, local_call, run_across, strategy
from phys4d.kernels.attention.flops import shown_to_counters
from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text
from phys4d.kernels.attention.qk_transform import FlatTransform
from phys4d.kernels.elementwise import QKNorm, Rope, qk_norm_rope

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup


def choose(call: Call, backend: str) -> BackendChoice:
    """The backend that serves the call; ValueError where the backend asked for by name cannot."""
    if backend != "auto":
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r}: expected auto, {', '.join(BACKENDS)}")
        refusal = BACKENDS[backend].refusal(call)
        if refusal is not None:
            raise ValueError(f"backend {backend!r} cannot serve this call: {refusal}")
        return BackendChoice(backend, "asked for by name")
    refused: dict[str, str] = {}
    ranked = measured.ranking(call)
    note = ranked.note if ranked else None
    for name in ranked.backends if ranked else ():
        reason = BACKENDS[name].refusal(call, by_name=False) if name in BACKENDS else "this version has no such backend"
        if reason is None:
            assert ranked is not None
            return BackendChoice(name, f"fastest as measured: {ranked.source}", refused, note)
        refused[name] = reason
    if refused:
        note = "; ".join(filter(None, ("none of the measured backends can serve it", note)))
    for name, candidate in BACKENDS.items():
        reason = candidate.refusal(call, by_name=False) or candidate.unmeasured(call)
        if reason is None:
            return BackendChoice(name, candidate.reason, refused, note)
        refused[name] = reason
    raise AssertionError("the reference serves every call")


def _plan(call: Call, backend: str, context: Context) -> tuple[Strategy | None, BackendChoice]:
    """How the ranks work together (None without a group), and which backend computes on each."""
    if context not in ("auto", "ulysses", "ring"):
        raise ValueError(f"context {context!r}: expected auto, ulysses or ring")
    if call.parts is None:
        return None, choose(call, backend)
    how = strategy(call, context)
    return how, replace(choose(local_call(call, how), backend), context=f"{how} over {call.parts.size} ranks")


def _fused_transform(call: Call, how: Strategy | None, choice: BackendChoice) -> FlatTransform | None:
    """Norm and rotation as the kernel applies them; None where they are a pass of their own before it."""
    return triton.fused_transform(call) if choice.backend == "triton" and how is None else None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    qk_norm: QKNorm | None = None,
    rope: Rope | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    group: "ProcessGroup | None" = None,
    context: Context = "auto",
    backend: str = "auto",
) -> Any:
    """Attention over a video's tokens, all of them or those that a pattern lets each query see.

    Args:
        q: [B, S_q, heads, D], any strides with a contiguous last dimension.
        k: [B, S_k, kv_heads, D], likewise; S_k = S_q but for `Full`. kv_heads divides heads: head h of the queries
            takes head h // (heads / kv_heads) of keys and values.
        v: [B, S_k, kv_heads, D_v], likewise.
        grid: (T, H, W) of the video tokens; needed by every pattern but `Full`, and by `rope`.
        pattern: Full(causal) | Spatial() | Temporal(causal) | Window(t, h, w), see there.
        text: (n, "first" | "last"): n text tokens stand before or after the video. Text queries see every
            key; video queries see the text and their pattern.
        key_lengths: [B] integers; keys at and after that position are padding, which no query sees. A tensor on q's
            device, any stride, or a list or tuple of integers, which is copied there in every call.
        mask: [B or 1, heads or 1, S_q or 1, S_k], beside the pattern: bool, true where a query sees a key, as torch has
            it, or floating, added to the scaled scores, -inf for a key that is not seen. Its gradient is given by the
            backends sdpa and reference.
        qk_norm: norm of queries and keys before anything else.
        rope: rotation of the video's queries and keys after the norm.
        scale: of the scores; D ** -0.5 if None.
        return_lse: also return lse.
        group: process group over whose ranks the sequence, text included, is divided: rank r of N passes the tokens
            `part_of(S, r, N)` as q, k, v and gets those of out and lse, while `grid` (always needed then), `text`,
            `key_lengths` and `mask` are of the whole. Every rank calls with equal arguments, in forward and backward.
        context: with a group: "ulysses" (any pattern; N divides heads and kv_heads), "ring" (`Full()` without a mask,
            any heads), or "auto", the first of these that can serve. torch.compile takes Ulysses into one graph, not
            the ring.
        backend: "auto" or one of those that `explain` names.

    Returns:
        out [B, S_q, heads, D_v] in q's dtype (under autocast in autocast's); with `return_lse` also lse
        [B, heads, S_q], the natural log of the scaled scores' sum, differentiable, float32 (float64 for float64). A
        query that sees no key gives 0 and -inf.

    Raises:
        ValueError: shapes, dtypes, strides or devices other than these; a pattern, norm or rotation that does not fit;
            a backend asked for by name that cannot serve the call; a group that this sequence or these heads do not
            divide over. With a group nothing has been sent then.
    """
    if (lower := autocast_dtype(q.device)) is not None:
        q, k, v = (t.to(lower) for t in (q, k, v))
    lengths = lengths_of(key_lengths, q)
    parts = None if group is None else Parts.of(group, grid, text)
    call = Call(q, k, v, grid, pattern, text, lengths, scale, return_lse, parts, qk_norm, rope, mask=mask)
    how, choice = _plan(call, backend, context)
    chosen = BACKENDS[choice.backend]
    run = chosen.run if chosen.dispatched else shown_to_counters(chosen.run)
    if qk_norm is not None or rope is not None:
        transform = _fused_transform(call, how, choice)
        if transform is not None:
            out, lse = triton.run(call, transform)
            return (out, lse) if return_lse else out
        start = parts.own.start if parts else None
        q, k = qk_norm_rope(q, k, qk_norm, rope, grid=grid or (1, 1, 1), text=text, start=start)
        call = Call(q, k, v, grid, pattern, text, lengths, scale, return_lse, parts, mask=mask)
    out, lse = run(call) if how is None else run_across(call, how, run)
    return (out, lse) if return_lse else out


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    qk_norm: QKNorm | None = None,
    rope: Rope | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    group: "ProcessGroup | None" = None,
    context: Context = "auto",
    backend: str = "auto",
) -> BackendChoice:
    """Which backend `attention` would take for these arguments, and why; raises what it would raise.

    With a group it says how the ranks would work together, and sends nothing.
    """
    lengths = lengths_of(key_lengths, q)
    parts = None if group is None else Parts.of(group, grid, text)
    call = Call(q, k, v, grid, pattern, text, lengths, scale, return_lse, parts, qk_norm, rope, mask=mask)
    how, choice = _plan(call, backend, context)
    if qk_norm is None and rope is None:
        return choice
    return replace(choice, fused_transform=_fused_transform(call, how, choice) is not None)
