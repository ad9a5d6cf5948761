"""On CUDA, torch.compile(fullgraph=True) traces every operator with the backend left to "auto"."""

import json

import pytest
import torch
from torch._subclasses import FakeTensorMode

from phys4d.kernels import geometry as g
from phys4d.kernels import native
from phys4d.kernels.attention import Full, Spatial, Temporal, Window, api, attention, attention_packed, measured
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import backend
from phys4d.kernels.elementwise import QKNorm, Rope, adaptive_norm, norm_rope
from phys4d.kernels.geometry.clouds import neighbours

GRID = (2, 3, 4)
FLOATS = {"dtype": torch.float32}


def traced(function, *arguments):
    """The names of the operators in the one graph of a call."""
    found = []

    def record(module, _examples):
        found.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module.forward

    torch._dynamo.reset()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.compile(function, backend=record, fullgraph=True)(*fakes)
    return found


@pytest.mark.parametrize(
    ("pattern", "training", "packed"),
    [
        (Full(), False, False), (Spatial(), True, False), (Temporal(), False, False), (Window(2, 2, 2), True, False),
        (Full(), True, True), (Temporal(), True, True),
    ],
)  # fmt: skip
def test_attention(h200, pattern, training, packed, monkeypatch):
    # A torch without CUDA aborts where autograd records a tensor of this device; the choice is all that is traced here.
    monkeypatch.setattr(Call, "training", training)
    if packed:
        found = traced(lambda x: attention_packed(x, grid=GRID, pattern=pattern), h200(1, 24, 3, 2, 64))
    else:
        found = traced(lambda *qkv: attention(*qkv, grid=GRID, pattern=pattern), *(h200(1, 24, 2, 64) for _ in "qkv"))
    assert any("attention" in name for name in found)


@pytest.mark.parametrize("asked", [{"return_lse": True}, {"text": (2, "last")}, {"key_lengths": True}])
def test_attention_with_more_to_it(h200, asked):
    asked = dict(asked)
    count = 26 if "text" in asked else 24
    lengths = h200(1, dtype=torch.int32) if asked.pop("key_lengths", False) else None

    def call(q, k, v, lengths):
        return attention(q, k, v, grid=GRID, pattern=Temporal(), key_lengths=lengths, **asked)

    assert "phys4d.attention.default" in traced(call, *(h200(1, count, 2, 64) for _ in "qkv"), lengths)


def test_attention_after_a_norm_and_rotation(h200):
    def call(q, k, v, weight, *tables):
        norm, rope = QKNorm("rms", weight, weight), Rope(tables)
        return attention(q, k, v, grid=GRID, pattern=Temporal(), qk_norm=norm, rope=rope)

    tables = [h200(size, pairs, 2, **FLOATS) for size, pairs in zip(GRID, (16, 8, 8), strict=True)]
    found = traced(call, *(h200(1, 24, 2, 64) for _ in "qkv"), h200(64), *tables)
    assert "phys4d.attention.default" in found and "phys4d.norm_rope.default" not in found


@pytest.mark.parametrize("training", [False, True])
def test_every_measured_backend_is_asked_while_tracing(h200, deterministic, training, tmp_path, monkeypatch):
    monkeypatch.setattr(Call, "training", training)
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    deterministic("required")
    qkv = [h200(1, 24, 2, 64) for _ in "qkv"]
    traits = measured.traits(Call(*qkv, GRID, Temporal(), None, None, None, False))
    absent = ("flash-attn-2", "flash-attn-3", "flash-attn-4", "xformers", "natten", "flex-flash", "sdpa-cudnn")
    entry = measured.Entry("a case", traits, 2, (*absent, "triton"))
    table = measured.Table("NVIDIA H200", "2026-01-02", "2.11.0", "3.6.0", (entry,))
    (tmp_path / "nvidia-h200.json").write_text(json.dumps(measured.as_json(table)))
    measured.table_of.forget()
    taken = []

    def call(*qkv):
        taken.append(api.choose(Call(*qkv, GRID, Temporal(), None, None, None, False), "auto"))
        return attention(*qkv, grid=GRID, pattern=Temporal())

    assert "phys4d.attention.default" in traced(call, *qkv)
    measured.table_of.forget()
    assert taken[0].backend == "triton" and set(taken[0].refused) == set(absent)
    assert taken[0].reason == "fastest as measured: a case on NVIDIA H200, 2026-01-02"


def clip(make, channels=None):
    return make(1, *([] if channels is None else [channels]), 3, 8, 8, **FLOATS)


def motion(make):
    return make(1, 3, 2, 8, 8, **FLOATS)


def mask(make, frames=3):
    return make(1, frames, 8, 8, dtype=torch.bool)


CASES = {
    "norm_rope": lambda m: (lambda x, w: norm_rope(x, w, None, "rms", 1e-6, None, GRID), m(1, 24, 2, 64), m(64)),
    "adaptive_norm": lambda m: (
        lambda x, y, t: adaptive_norm(x, y, gate=t, scale=t, shift=t), m(1, 24, 64), m(1, 24, 64), m(1, 64),
    ),
    "splat": lambda m: (lambda *x: g.splat(*x).depth, clip(m, 1), clip(m, 2), clip(m)),
    "flow_warp": lambda m: (lambda *x: g.flow_warp(*x)[0], clip(m, 1), clip(m, 2)),
    "flow_loss": lambda m: (g.flow_loss, clip(m, 2), clip(m, 2), mask(m)),
    "scene_flow_loss": lambda m: (
        g.scene_flow_loss, clip(m), motion(m), clip(m), motion(m), mask(m, 2), m(1, 3, 3, 3, **FLOATS),
    ),
    "depth_loss": lambda m: (g.depth_loss, clip(m), clip(m), mask(m)),
    "warp_consistency": lambda m: (lambda x, y: g.warp_consistency(x, y, None), clip(m), motion(m)),
    "occlusion_mask": lambda m: (lambda x, y: g.occlusion_mask(x, y).visible, clip(m), motion(m)),
    "lift_4d": lambda m: (lambda *x: g.lift_4d(*x).points, clip(m), motion(m), m(1, 3, 3, 3, **FLOATS)),
    "chamfer": lambda m: (g.chamfer, m(1, 20, 3, **FLOATS), m(1, 30, 3, **FLOATS)),
    "chamfer_motion": lambda m: (g.chamfer_motion, m(1, 2, 20, 3, **FLOATS), m(1, 2, 30, 3, **FLOATS)),
}  # fmt: skip


def on_meta(*sizes, dtype=torch.bfloat16):
    return torch.zeros(sizes, dtype=dtype, device="meta")


@pytest.mark.parametrize("name", CASES)
def test_every_other_operator(name, monkeypatch):
    # In place of CUDA, whose tensors a torch without it cannot slice.
    monkeypatch.setattr(backend, "TRITON_DEVICES", {"meta"})
    function, *tensors = CASES[name](on_meta)
    assert any(target.startswith("phys4d.") for target in traced(function, *tensors))


def test_the_choice_of_a_search(h200):
    found = []

    def search(x):
        found.append(neighbours.plan("nearest", "auto", "auto", x, x))
        return x + 1

    traced(search, h200(1, 20, 3, **FLOATS))
    traced(search, h200(1, 1 << 15, 3, **FLOATS))
    trees = "native" if native.compiled_for("phys4d::tree_search", "cuda") else "triton"
    assert found == [("triton", "exhaustive"), (trees, "tree")]
