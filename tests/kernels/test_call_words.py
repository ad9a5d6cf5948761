"""Arguments that are one of a few words, or a pattern: anything else is refused and never taken for another."""

from typing import Any

import pytest
import torch

from phys4d.kernels.attention import Full, Temporal, Window, attention, attention_packed, attention_varlen
from phys4d.kernels.elementwise import QKNorm, Rope, adaptive_norm, norm_rope, qk_norm_rope
from phys4d.kernels.geometry import depth_losses, flow_loss, flow_warp, nearest, warp_consistency
from phys4d.kernels.geometry.losses.supervised import depth_loss
from phys4d.kernels.integrate import sdpa
from tests.kernels.operator_calls import CALLS

GRID = (3, 2, 2)
X = torch.zeros(1, 12, 2, 8)
ROPE = Rope.make(GRID, (4, 2, 2))
TABLES = CALLS["warp_consistency"].tensors
FLOW = CALLS["flow_warp"].tensors
FLOWS = {name: CALLS["flow_loss"].tensors[name] for name in ("predicted", "target", "valid")}


def attend(**asked: Any) -> Any:
    return attention(X, X, X, grid=GRID, **asked)


def opened(backend: Any) -> None:
    with sdpa(backend):
        pass


# The argument, and a call with it. None is left out where it is a choice of its own.
WORDS = {
    "attention: pattern": lambda word: attend(pattern=word),
    "attention: backend": lambda word: attend(backend=word),
    "attention: context": lambda word: attend(context=word),
    "attention: text": lambda word: attend(text=(2, word), pattern=Temporal()),
    "attention: text of Full": lambda word: attend(text=(2, word)),
    "attention: backend of a norm": lambda word: attend(
        qk_norm=QKNorm("rms", torch.ones(8), torch.ones(8)), backend=word
    ),
    "attention: kind of norm": lambda word: attend(qk_norm=QKNorm(word, torch.ones(8), torch.ones(8))),
    "attention_packed: pattern": lambda word: attention_packed(torch.stack((X, X, X), 2), grid=GRID, pattern=word),
    "attention_packed: backend": lambda word: attention_packed(torch.stack((X, X, X), 2), backend=word),
    "attention_varlen: backend": lambda word: attention_varlen(
        X[0], X[0], X[0], torch.tensor([0, 12]), backend=word
    ),
    "sdpa: backend": opened,
    "rope: layout": lambda word: Rope(ROPE.tables, word),
    "rope: layout of make": lambda word: Rope.make(GRID, (4, 2, 2), layout=word),
    "norm_rope: kind": lambda word: norm_rope(X, torch.ones(8), None, word, 1e-6, None, GRID),
    "qk_norm_rope: text": lambda word: qk_norm_rope(X, X, None, ROPE, grid=GRID, text=(2, word)),
    "adaptive_norm: norm": lambda word: adaptive_norm(X.flatten(2), norm=word),
    "flow_warp: border": lambda word: flow_warp(**FLOW, border=word),
    "flow_warp: backend": lambda word: flow_warp(**FLOW, backend=word),
    "warp_consistency: loss": lambda word: warp_consistency(**TABLES, loss=word),
    "warp_consistency: border": lambda word: warp_consistency(**TABLES, border=word),
    "depth_loss: kind": lambda word: depth_loss(TABLES["depth"], TABLES["depth"], TABLES["depth"] > 0, kind=word),
    "depth_losses: scope": lambda word: depth_losses(TABLES["depth"], TABLES["depth"], TABLES["depth"] > 0, scope=word),
    "flow_loss: kind": lambda word: flow_loss(**FLOWS, kind=word),
    "nearest: search": lambda word: nearest(X[0, 0, :, :3], X[0, 0, :, :3], search=word),
    "nearest: backend": lambda word: nearest(X[0, 0, :, :3], X[0, 0, :, :3], backend=word),
}
OPTIONAL = {"norm_rope: kind", "adaptive_norm: norm"}


@pytest.mark.parametrize("word", ["Auto", "", None, 0, Temporal, ("rms",), "full"])
@pytest.mark.parametrize("name", WORDS)
def test_a_word_of_no_meaning_is_refused_in_one_line(name, word):
    if word is None and name in OPTIONAL:
        return
    with pytest.raises(ValueError) as refused:
        WORDS[name](word)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "made", [lambda: Full("causal"), lambda: Temporal(GRID), lambda: Window(2.5, 1, 1), lambda: Window(*"212")]
)
def test_a_pattern_has_parameters_of_its_kind(made):
    with pytest.raises(ValueError, match=r"(Full|Temporal|Window)\(.*: expected (bool|int), got"):
        made()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"grid": (3, 4, 5)}, r"grid \(3, 4, 5\) with 0 text tokens makes a sequence of 60, got 67"),
        ({"grid": (1, 2, 3), "text": (7, "first")}, "with 7 text tokens makes a sequence of 13, got 67"),
        ({"grid": (3, 4, 5), "text": (700, "first")}, "text: 700 tokens are more than the 67 queries"),
        ({"grid": None}, "rope: needs the video's grid"),
    ],
)
def test_a_rotation_of_a_forgotten_text_is_refused(asked, message):
    x, rope = torch.zeros(1, 67, 2, 8), Rope.make((3, 4, 5), (4, 2, 2))
    with pytest.raises(ValueError, match=message):
        attention(x, x, x, rope=rope, **asked)
    if asked["grid"]:
        with pytest.raises(ValueError, match="makes a sequence of"):
            qk_norm_rope(x, x, None, rope, **asked)
    attention(x, x, x, rope=rope, grid=(3, 4, 5), text=(7, "first"))


def test_a_part_of_a_sequence_may_not_reach_beyond_it():
    x = torch.zeros(1, 30, 2, 8)
    rope = Rope.make((3, 4, 5), (4, 2, 2))
    qk_norm_rope(x, x, None, rope, grid=(3, 4, 5), text=(7, "last"), start=37)
    with pytest.raises(ValueError, match="makes a sequence of 67, got 30 tokens from position 38 on"):
        qk_norm_rope(x, x, None, rope, grid=(3, 4, 5), text=(7, "last"), start=38)


def test_tables_of_a_rotation_are_moved_by_to():
    moved = ROPE.to("meta")
    assert {table.device.type for table in moved.tables} == {"meta"} and moved.layout == ROPE.layout
    assert ROPE.to("cpu") is ROPE and moved.pairs == ROPE.pairs
    with pytest.raises(ValueError, match=r"table is on meta, the tokens are on cpu: .*rope = rope.to\(q.device\)"):
        attention(X, X, X, grid=GRID, rope=moved)
