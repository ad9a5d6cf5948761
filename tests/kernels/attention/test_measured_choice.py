"""The measured table: which class a call falls into, what "auto" makes of it, and tables that cannot be used."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st

from phys4d.benchmarks.attention import tuned
from phys4d.benchmarks.cases import ATTENTION
from phys4d.cli import main
from phys4d.kernels.attention import Full, Spatial, Temporal, Window, api, attention, explain, measured
from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.measured import Entry, Ranking, Table
from phys4d.kernels.elementwise import QKNorm

GRID = (16, 2, 2)
FLAGS = [name for name, kind in measured.Traits.__annotations__.items() if kind is bool]


def call(pattern, grid=GRID, dim=8, training=False, dtype=torch.float32, device="cpu", text=None, **asked):
    count = grid[0] * grid[1] * grid[2] + (text[0] if text else 0)
    q, k, v = (torch.zeros(1, count, 1, dim, dtype=dtype, device=device, requires_grad=training) for _ in range(3))
    asked = {"key_lengths": None, "scale": None, "return_lse": False} | asked
    return Call(q, k, v, grid, pattern, text, **asked)


TRAITS = measured.traits(call(Temporal()))
TABLE = Table(
    "a GPU", "2026-01-02", "2.11.0", "3.6.0",
    (
        Entry("short", TRAITS, 16, ("triton", "reference")),
        Entry("long", TRAITS, 100, ("sdpa",)),
        Entry("trained", TRAITS._replace(training=True), 16, ("reference",)),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "case"),
    [
        (call(Temporal()), "short"),
        (call(Temporal(), (30, 2, 2)), "short"),
        (call(Temporal(), (60, 2, 2)), "long"),
        (call(Temporal(), (8, 2, 2), training=True), "trained"),
        (call(Temporal(), (4, 2, 2)), "short"),
        (call(Temporal(), (3, 2, 2)), None),
        (call(Temporal(), dim=16), None),
        (call(Spatial(), (16, 4, 4)), None),
        (call(Temporal(causal=True)), None),
        (call(Temporal(), dtype=torch.bfloat16), None),
        (call(Temporal(), text=(3, "last")), None),
        (call(Temporal(), key_lengths=torch.tensor([5])), None),
        (call(Temporal(), return_lse=True), None),
        (call(Temporal(), mask=torch.ones(1, 1, 1, 64)), None),
        (replace(call(Temporal()), v=torch.zeros(1, 64, 1, 4)), None),
        (replace(call(Temporal()), q=torch.zeros(1, 64, 2, 8)), None),
    ],
)
def test_the_class_has_the_traits_of_the_call_and_is_the_nearest_within_a_factor_of_four(asked, case):
    found = measured.nearest(TABLE, asked)
    if case is None:
        assert found == Ranking((), "", "the table of a GPU, 2026-01-02, has no class like this call")
    else:
        assert found.source == f"{case} on a GPU, 2026-01-02" and found.note is None


def test_traits_hold_what_decides(monkeypatch):
    q = torch.zeros(1, 64, 1, 8, dtype=torch.float16, requires_grad=True)
    asked = Call(q, q, q, GRID, Temporal(causal=True), None, torch.tensor([3]), None, True)
    assert measured.traits(asked) == ("temporal", True, 8, 16, False, True, True, False, True, False, 8, 1, False)
    assert not measured.traits(call(Full(), text=(2, "first"))).text
    try:
        torch.use_deterministic_algorithms(True)
        assert measured.traits(asked).deterministic and not measured.traits(call(Temporal())).deterministic
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_norm_with_weights_to_train_is_training_and_fused_where_the_kernel_takes_it():
    weight = torch.ones(8, requires_grad=True)
    asked = replace(call(Temporal()), qk_norm=QKNorm("rms", weight, weight.detach()))
    found = measured.traits(asked)
    assert found.training and found.fused
    assert not measured.traits(replace(asked, divided=True)).fused
    assert not measured.traits(replace(asked, text=(0, "first"), pattern=Window(2, 2, 2))).fused
    with torch.no_grad():
        assert not measured.traits(asked).training


def test_auto_takes_the_first_of_the_order_that_can_serve(monkeypatch):
    monkeypatch.setattr(measured, "ranking", lambda call: measured.nearest(TABLE, call, "by hand"))
    asked = call(Temporal())
    choice = explain(asked.q, asked.k, asked.v, grid=asked.grid, pattern=asked.pattern)
    assert choice.backend == "reference" and choice.reason == "fastest as measured: short on a GPU, 2026-01-02"
    assert choice.refused == {"triton": "its kernels run on CUDA, the tensors are on cpu"}
    assert choice.measured == "by hand" and "; by hand" in str(choice)
    out = attention(asked.q, asked.k, asked.v, grid=asked.grid, pattern=asked.pattern)
    assert out.shape == asked.q.shape


def test_where_no_measured_backend_can_serve_the_default_does_and_says_so(monkeypatch):
    order = ("triton", "flash-attn-9")
    monkeypatch.setattr(measured, "ranking", lambda call: Ranking(order, "a case", None))
    choice = api.choose(call(Temporal()), "auto")
    assert choice.backend == "sdpa" and choice.measured == "none of the measured backends can serve it"
    assert choice.refused["flash-attn-9"] == "this version has no such backend"


@given(
    st.permutations(list(BACKENDS)),
    st.integers(0, len(BACKENDS)),
    st.sampled_from([Full(), Spatial(), Temporal(), Temporal(causal=True), Window(3, 2, 1), Window(2, 2, 2)]),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    st.sampled_from([None, (2, "first")]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from([4, 8, 72, 128, 200, 256, 300]),
    st.sampled_from(["cpu", "cuda"]),
    st.sampled_from(["off", "warn", "required"]),
)
def test_auto_never_raises_and_takes_the_fastest_that_can_serve(
    h200, order, count, pattern, dtype, text, flags, dim, device, determinism
):
    training, padded, lse = flags
    make = h200 if device == "cuda" else torch.zeros
    size = 64 + (text[0] if text else 0)
    q = make(1, size, 1, dim, dtype=dtype).requires_grad_(training)
    lengths = make(1, dtype=torch.int32) if padded else None
    asked = Call(q, q, q, GRID, pattern, text, lengths, None, lse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "ranking", lambda call: Ranking(tuple(order[:count]), "a case", None))
        try:
            torch.use_deterministic_algorithms(determinism != "off", warn_only=determinism == "warn")
            choice = api.choose(asked, "auto")
            able = [name for name in order[:count] if BACKENDS[name].refusal(asked, by_name=False) is None]
        finally:
            torch.use_deterministic_algorithms(False)
    assert choice.backend == able[0] if able else choice.reason == BACKENDS[choice.backend].reason
    assert choice.backend not in choice.refused
    ours = BACKENDS["triton"].refusal(asked, by_name=False)
    assert choice.backend != "reference" or "reference" in order[:count] or device == "cpu" or ours is not None


def test_every_combination_of_traits_finds_its_own_class():
    entries = tuple(
        Entry(str(index), TRAITS._replace(**dict(zip(FLAGS, values, strict=True))), 16, (f"b{index}",))
        for index, values in enumerate(itertools.product([False, True], repeat=len(FLAGS)))
    )
    table = TABLE._replace(entries=entries)
    assert measured.parse(json.loads(json.dumps(measured.as_json(table)))) == table
    for entry in entries:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measured, "traits", lambda call, entry=entry: entry.traits)
            assert measured.nearest(table, call(Temporal())).backends == entry.backends


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    measured.table_of.forget()
    yield tmp_path
    measured.table_of.forget()


def on_gpu(h200, **asked):
    tensors = [h200(1, 64, 2, 64) for _ in range(3)]
    return explain(*tensors, grid=GRID, pattern=Temporal(), **asked)


def write(folder, **other):
    traits = TRAITS._replace(dim=64, value_dim=64, bits=16)
    here = {"gpu": "NVIDIA H200", "torch": str(torch.__version__), "triton": triton.__version__} | other
    table = TABLE._replace(**here, entries=(Entry("a case", traits, 16, ("flash-attn-4", "sdpa", "triton")),))
    (folder / "nvidia-h200.json").write_text(json.dumps(measured.as_json(table)))


def test_a_table_of_this_gpu_and_these_versions_is_used(h200, folder):
    write(folder)
    choice = on_gpu(h200)
    assert choice.backend == "sdpa" and choice.measured is None
    assert "flash_attn.cute.interface cannot be imported" in choice.refused["flash-attn-4"]
    choice = on_gpu(h200, key_lengths=h200(1, dtype=torch.int32))
    assert choice.backend == "triton" and "has no class like this call" in choice.measured


def test_a_table_of_other_versions_or_another_gpu_is_used_and_that_is_said(h200, folder):
    write(folder, torch="2.9.0", gpu="NVIDIA H200 NVL")
    choice = on_gpu(h200)
    assert choice.backend == "sdpa"
    assert "measured on NVIDIA H200 NVL, this is NVIDIA H200" in choice.measured
    assert "measured with torch 2.9.0 and triton" in str(choice)


def test_without_a_table_that_is_said(h200, folder):
    choice = on_gpu(h200)
    assert choice.backend == "triton" and choice.measured.startswith("nothing was measured on NVIDIA H200")


BROKEN = {
    "{": "is ignored: Expecting property name",
    "[]": "is ignored: its format is not 3",
    '{"gpu": "NVIDIA H200", "date": "2026-01-02", "classes": []}': "its format is not 3",
    '{"format": 3, "gpu": "a", "date": "b", "torch": "c", "triton": "d", "classes": 3}': "classes is 3, expected list",
    '{"format": 3, "gpu": "a", "date": "b", "torch": "c", "triton": "d", "classes": [{}]}': "pattern is None, expected",
    "\x80": "is ignored",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_table_that_cannot_be_read_is_ignored_with_one_line(h200, folder, text):
    (folder / "nvidia-h200.json").write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match="nvidia-h200.json is ignored") as caught:
        choice = on_gpu(h200)
        on_gpu(h200)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert BROKEN[text] in choice.measured and choice.measured.endswith("--tune writes it anew")
    assert choice.backend == "triton"


def test_keys_that_a_query_sees_are_counted():
    assert measured.keys_per_query(call(Full(), (2, 3, 4))) == 24
    assert measured.keys_per_query(call(Spatial(), (2, 3, 4))) == 12
    assert measured.keys_per_query(call(Temporal(), (2, 3, 4))) == 2


def timed(case, times, **other):
    return [
        {"case": case, "backend": name, "part": part, "ms": ms} | other
        for name, both in times.items()
        for part, ms in zip(("forward", "backward"), both, strict=True)
    ]


def test_a_table_is_made_of_the_rows_of_a_run():
    case, normed = ATTENTION[4], ATTENTION[7]
    rows = timed(case.name, {"sdpa": (1.0, 9.0), "flash-attn-2": (1.5, 2.5), "naive": (0.1, 0.1)})
    rows += timed(case.name, {"triton": (2.0, 3.0)}, deterministic=True)
    rows += [{"case": case.name, "backend": "flex", "part": "forward", "ms": 0.5}]  # no backward: not in the order
    rows += [{"case": case.name, "backend": "xformers", "refused": "absent"}]
    rows += timed(case.name, {"sdpa-deterministic": (1.0, 3.0)}, deterministic=True)
    rows += timed(normed.name, {"triton": (1.0, 1.0)})
    table = measured.parse(json.loads(json.dumps(tuned(rows, "NVIDIA H200", "2026-01-02"))))
    inference, training, exact, *fused = table.entries
    assert inference.backends == ("sdpa", "flash-attn-2", "triton")
    assert training.backends == ("flash-attn-2", "triton", "sdpa")
    assert exact.backends == ("sdpa", "triton") and exact.traits == training.traits._replace(deterministic=True)
    expected = ("temporal", False, 72, 16, False, False, False, False, False, False, 72, 1, False)
    assert inference.seen == 15 and inference.traits == expected and training.traits.training
    assert [entry.traits for entry in fused] == [
        inference.traits._replace(fused=True), training.traits._replace(fused=True)
    ]  # fmt: skip
    assert (table.torch, table.triton) == (str(torch.__version__), triton.__version__)


def test_the_table_that_tuning_writes_serves_the_cases_that_it_was_measured_on(h200, folder):
    for case in ATTENTION:
        rows = timed(case.name, {"flash-attn-3": (1.0, 1.0), "sdpa": (2.0, 2.0), "triton": (3.0, 3.0)})
        (folder / "nvidia-h200.json").write_text(json.dumps(tuned(rows, "NVIDIA H200", "2026-01-02")))
        measured.table_of.forget()
        q = h200(case.batch, case.tokens, case.heads, case.dim)
        asked = Call(q, q, q, case.grid, case.pattern, (case.words, "first") if case.words else None, None, None, False)
        if case.lanes is None:
            assert api.choose(asked, "auto").reason == f"fastest as measured: {case.name} on NVIDIA H200, 2026-01-02"
        assert api.choose(replace(asked, return_lse=True), "auto").backend == "triton"


def test_tuning_needs_a_gpu(capsys):
    assert main(["bench", "attention", "--tune", "--device", "cpu"]) == 2
    assert "--tune: needs a GPU" in capsys.readouterr().err
