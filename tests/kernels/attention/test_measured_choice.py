"""The measured table: which class a call falls into, and what "auto" makes of it."""

import json

import pytest
import torch

from phys4d.benchmarks.attention import tuned
from phys4d.benchmarks.cases import ATTENTION
from phys4d.cli import main
from phys4d.kernels.attention import Full, Spatial, Temporal, attention, explain, measured
from phys4d.kernels.attention.call import Call

CLASSES = [
    {"case": "short", "pattern": "temporal", "dim": 8, "seen": 16, "training": False, "backends": ["triton", "reference"]},  # noqa: E501
    {"case": "long", "pattern": "temporal", "dim": 8, "seen": 100, "training": False, "backends": ["sdpa"]},
    {"case": "trained", "pattern": "temporal", "dim": 8, "seen": 16, "training": True, "backends": ["reference"]},
]
TABLE = {"gpu": "a GPU", "date": "2026-01-02", "classes": CLASSES}


def call(pattern, grid, dim=8, training=False):
    count = grid[0] * grid[1] * grid[2]
    q, k, v = (torch.zeros(1, count, 1, dim, requires_grad=training) for _ in range(3))
    return Call(q, k, v, grid, pattern, None, None, None, False)


@pytest.mark.parametrize(
    ("asked", "case"),
    [
        (call(Temporal(), (16, 2, 2)), "short"),
        (call(Temporal(), (30, 2, 2)), "short"),
        (call(Temporal(), (60, 2, 2)), "long"),
        (call(Temporal(), (8, 2, 2), training=True), "trained"),
        (call(Temporal(), (2, 2, 2)), None),
        (call(Temporal(), (16, 2, 2), dim=16), None),
        (call(Spatial(), (16, 4, 4)), None),
    ],
)
def test_the_nearest_class_holds_within_a_factor_of_four(asked, case):
    found = measured.nearest(TABLE, asked)
    assert (found is None) == (case is None)
    if found is not None:
        assert found.source == f"{case} on a GPU, 2026-01-02"


def test_auto_takes_the_first_of_the_order_that_can_serve(monkeypatch):
    monkeypatch.setattr(measured, "ranking", lambda call: measured.nearest(TABLE, call))
    asked = call(Temporal(), (16, 2, 2))
    choice = explain(asked.q, asked.k, asked.v, grid=asked.grid, pattern=asked.pattern)
    assert choice.backend == "reference" and choice.reason == "fastest as measured: short on a GPU, 2026-01-02"
    assert choice.refused == {"triton": "its kernels run on CUDA, the tensors are on cpu"}
    out = attention(asked.q, asked.k, asked.v, grid=asked.grid, pattern=asked.pattern)
    assert out.shape == asked.q.shape


def test_keys_that_a_query_sees_are_counted():
    assert measured.keys_per_query(call(Full(), (2, 3, 4))) == 24
    assert measured.keys_per_query(call(Spatial(), (2, 3, 4))) == 12
    assert measured.keys_per_query(call(Temporal(), (2, 3, 4))) == 2


def test_a_table_is_made_of_the_rows_of_a_run():
    case = ATTENTION[4]
    times = {"sdpa": (1.0, 9.0), "triton": (2.0, 3.0), "naive": (0.1, 0.1)}
    rows = [
        {"case": case.name, "backend": name, "part": part, "ms": ms}
        for name, both in times.items()
        for part, ms in zip(("forward", "backward"), both, strict=True)
    ]
    rows += [{"case": case.name, "backend": "flex", "part": "forward", "ms": 0.5}]  # no backward: not in the order
    rows += [{"case": case.name, "backend": "xformers", "refused": "absent"}]
    table = json.loads(json.dumps(tuned(rows, "NVIDIA H200", "2026-01-02")))
    inference, training = table["classes"]
    assert inference["backends"] == ["sdpa", "triton"] and training["backends"] == ["triton", "sdpa"]
    assert inference["seen"] == 15 and inference["pattern"] == "temporal" and inference["dim"] == 72
    assert measured.slug(table["gpu"]) == "nvidia-h200"


def test_tuning_needs_a_gpu(capsys):
    assert main(["bench", "attention", "--tune", "--device", "cpu"]) == 2
    assert "--tune: needs a GPU" in capsys.readouterr().err
