"""What each backend refuses, and what it makes of deterministic algorithms, on a stand-in for an H200."""

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.kernels.attention import Full, Spatial, Temporal, Window, api, attention_reference, explain
from phys4d.kernels.attention.backends import BACKENDS, flash_attn, natten, xformers
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import compute_capability

GRID = (4, 4, 4)
CAUSAL = Full(causal=True)
FULL = Full()
HALF, SINGLE, DOUBLE = ({"dtype": dtype} for dtype in (torch.bfloat16, torch.float32, torch.float64))


@pytest.fixture
def call(h200):
    def make(
        *, dim=64, dtype=torch.bfloat16, training=False, text=None, padded=False, pattern=FULL, lse=False, count=64,
        kv_heads=2, value_dim=None, mask=False, keys=None,
    ):  # fmt: skip
        count += text[0] if text else 0
        q, k, v = (
            h200(1, tokens, heads, width, dtype=dtype, requires_grad=training)
            for tokens, heads, width in (
                (count, 2, dim), (keys or count, kv_heads, dim), (keys or count, kv_heads, value_dim or dim)
            )
        )  # fmt: skip
        added = h200(1, 1, 1, k.shape[1], dtype=dtype, requires_grad=training) if mask else None
        lengths = h200(1, dtype=torch.int32) if padded else None
        return Call(q, k, v, None if pattern.crosses else GRID, pattern, text, lengths, None, lse, mask=added)

    return make


@pytest.fixture
def installed(monkeypatch):
    """Puts functions in place of packages that are absent; they note their options and compute the definition."""
    seen = []

    def dense(q, k, v, *, softmax_scale=None, scale=None, causal=False, **options):
        seen.append(options | ({"causal": True} if causal else {}))
        return attention_reference(q, k, v, scale=softmax_scale if scale is None else scale)[0]

    monkeypatch.setattr(flash_attn, "flash_attn_func", lambda name: dense)
    monkeypatch.setattr("phys4d.kernels.attention.backends.flex.generation_refusal", lambda call, name: None)
    monkeypatch.setattr(xformers, "_function", lambda: dense)
    monkeypatch.setattr(natten, "_function", lambda: dense)
    return seen


@pytest.fixture
def capability(monkeypatch):
    """Makes the stand-in another GPU."""

    def become(number):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: divmod(number, 10))
        compute_capability.forget()

    yield become
    monkeypatch.undo()
    compute_capability.forget()


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("sdpa-flash", {}, None),
        ("sdpa-flash", {"pattern": Spatial()}, None),
        ("sdpa-flash", SINGLE, "does not take torch.float32"),
        ("sdpa-flash", {"padded": True}, "takes no mask"),
        ("sdpa-flash", {"pattern": Temporal(causal=True)}, None),
        ("sdpa-flash", {"pattern": Temporal(causal=True), "text": (1, "last")}, "takes no mask"),
        ("sdpa-flash", {"pattern": Window(2, 2, 2)}, "takes no mask"),
        ("sdpa-flash", {"dim": 264}, "heads of 264 channels"),
        ("sdpa-flash", {"kv_heads": 1}, None),
        ("sdpa-flash", {"mask": True}, "takes no mask"),
        ("sdpa-flash", {"pattern": CAUSAL}, None),
        ("sdpa-flash", {"pattern": CAUSAL, "keys": 70}, "takes no mask"),
        ("sdpa-flash", {"value_dim": 32}, "takes values as wide as keys"),
        ("sdpa-cudnn", {"value_dim": 32}, "takes values as wide as keys"),
        ("sdpa-cudnn", {"mask": True, "kv_heads": 1}, None),
        ("sdpa-cudnn", {"mask": True, "training": True}, "no gradient of a mask"),
        ("sdpa-efficient", {"mask": True, "training": True, "value_dim": 32}, None),
        ("sdpa-efficient", {"kv_heads": 1}, "as many heads of keys as of queries"),
        ("sdpa-math", {"mask": True, "value_dim": 32, "kv_heads": 1, "pattern": CAUSAL, "keys": 9}, None),
        ("flash-attn-2", {"kv_heads": 1}, None),
        ("flash-attn-2", {"pattern": CAUSAL}, None),
        ("flash-attn-2", {"pattern": CAUSAL, "keys": 70}, "at the bottom right"),
        ("flash-attn-2", {"mask": True}, "takes no mask"),
        ("flash-attn-4", {"value_dim": 32}, "values as wide as keys, not 32 beside 64 channels"),
        ("xformers", {"kv_heads": 1}, "heads of queries that share keys"),
        ("xformers", {"pattern": CAUSAL}, "causal rows"),
        ("xformers", {"mask": True}, "takes no mask"),
        ("natten", {"pattern": Window(2, 2, 2), "mask": True}, "takes no mask"),
        ("natten", {"pattern": Window(2, 2, 2), "kv_heads": 1}, "of equal number and width"),
        ("flex", {"kv_heads": 1, "value_dim": 32, "pattern": CAUSAL, "keys": 70}, None),
        ("flex", {"mask": True}, "a mask would be compiled in"),
        ("flex", {"value_dim": 8}, "head dimensions from 16 on, not 8"),
        ("flex-flash", {"value_dim": 32}, "values as wide as keys"),
        ("triton", {"kv_heads": 1, "mask": True, "pattern": CAUSAL, "keys": 70}, None),
        ("triton", {"mask": True, "training": True}, "no gradient of a mask"),
        ("triton", {"value_dim": 32}, "values as wide as keys"),
        ("triton", {"pattern": Window(2, 2, 2), "mask": True}, r"its kernel of Window.* takes no mask"),
        ("triton", {"pattern": Window(2, 2, 2), "kv_heads": 1}, "takes as many heads of keys as of queries"),
        ("sdpa-flash", {"lse": True}, "does not return the log-sum-exp"),
        ("sdpa-cudnn", {"pattern": Window(2, 2, 2)}, None),
        ("sdpa-cudnn", {"dim": 136}, "heads of 136 channels"),
        ("sdpa-cudnn", {"dim": 68}, "heads of 68 channels"),
        ("sdpa-cudnn", {"count": 1}, "does not take a single key"),
        ("sdpa-cudnn", SINGLE, "does not take torch.float32"),
        ("sdpa-efficient", SINGLE | {"dim": 68}, None),
        ("sdpa-efficient", HALF | {"dim": 68}, "heads of 68 channels in torch.bfloat16"),
        ("sdpa-efficient", DOUBLE, "does not take torch.float64"),
        ("sdpa-math", DOUBLE | {"dim": 7, "padded": True}, None),
        ("flash-attn-2", {"dim": 264}, "head dimensions up to 256"),
        ("flash-attn-3", {"padded": True}, "key_lengths"),
        ("flash-attn-4", {"dim": 68}, "multiples of 8"),
        ("flash-attn-4", {"pattern": Temporal(causal=True), "text": (1, "first")}, "causal row after a text"),
        ("xformers", {"dim": 68}, "multiples of 8"),
        ("natten", {"pattern": Window(2, 2, 2)}, None),
        ("natten", {"pattern": Spatial()}, r"it computes windows, not Spatial\(\)"),
        ("natten", {"pattern": Window(1, 2, 2)}, "two cells or more along every axis"),
        ("natten", {"pattern": Window(2, 2, 2), "text": (3, "last")}, "its queries see no text"),
        ("natten", {"pattern": Window(2, 2, 2), "padded": True}, "no key_lengths"),
        ("natten", {"pattern": Window(2, 2, 2), "lse": True}, "log-sum-exp is not differentiable"),
        ("natten", {"pattern": Window(2, 2, 2), "dim": 68}, "multiples of 8"),
        ("natten", {"pattern": Window(2, 2, 2)} | SINGLE, "not torch.float32"),
        ("flex", {"dim": 8}, "head dimensions from 16 on"),
        ("flex", {"padded": True}, "new block mask for every call"),
        ("flex-flash", {"pattern": Window(2, 2, 2), "training": True}, None),
        ("flex-flash", SINGLE, "not torch.float32"),
        ("flex-flash", {"lse": True}, "is not differentiable"),
        ("flex-flash", {"padded": True}, "new block mask for every call"),
    ],
)
def test_limits(call, installed, name, asked, why):
    if why is None:
        assert api.choose(call(**asked), name).backend == name
    else:
        with pytest.raises(ValueError, match=f"'{name}' cannot serve this call: .*{why}"):
            api.choose(call(**asked), name)


@pytest.mark.parametrize(
    ("name", "number", "asked", "why"),
    [
        ("sdpa-flash", 75, {}, "needs compute capability 80"),
        ("sdpa-flash", 86, {"dim": 256, "training": True}, "no backward for heads of 256 channels"),
        ("sdpa-flash", 86, {"dim": 256}, None),
        ("sdpa-flash", 80, {"dim": 256, "training": True}, None),
        ("flash-attn-3", 100, {}, "made for compute capability 90 to 90"),
        ("flash-attn-4", 80, {}, "made for compute capability 90 to 120"),
        ("flash-attn-4", 100, {"dim": 192}, "multiples of 8"),
        ("flash-attn-4", 100, {"dim": 256}, None),
        ("natten", 75, {"pattern": Window(2, 2, 2)}, "from compute capability 8.0 on"),
        ("flex-flash", 120, {}, "compute capability 12.x"),
    ],
)
def test_limits_of_other_gpus(call, installed, capability, name, number, asked, why):
    capability(number)
    reason = BACKENDS[name].refusal(call(**asked))
    assert reason is None if why is None else why in reason


VARIES = {  # under deterministic algorithms: why training is refused where they are required; None where it is served
    "triton": None, "sdpa": None, "sdpa-flash": None, "sdpa-cudnn": "torch does not run its cudnn kernel then",
    "sdpa-efficient": None, "sdpa-math": None, "flash-attn-2": None, "flash-attn-3": "its gradients vary even",
    "flash-attn-4": None, "xformers": None, "natten": None, "flex": None,
    "flex-flash": "the backward of FlexAttention's FLASH kernels is not deterministic", "reference": None,
}  # fmt: skip
WARNED = {"sdpa", "sdpa-flash", "sdpa-efficient", "xformers"}  # torch's own backward stays as it is where it only warns


def pattern_for(name):
    return Window(2, 2, 2) if name == "natten" else Full()


def test_every_backend_that_trains_is_tested_for_determinism():
    assert set(BACKENDS) - VARIES.keys() == {"int8"}


@pytest.mark.parametrize("name", VARIES)
def test_determinism(call, installed, deterministic, name):
    training, inference = (call(pattern=pattern_for(name), training=flag) for flag in (True, False))
    backend = BACKENDS[name]
    assert backend.refusal(training) is None and backend.refusal(inference) is None
    deterministic("required")
    reason, why = backend.refusal(training), VARIES[name]
    assert reason is None if why is None else (why in reason and "deterministic algorithms are asked for" in reason)
    assert (backend.refusal(inference) is None) == (name != "sdpa-cudnn")
    deterministic("warn")
    assert backend.refusal(training) is None and backend.refusal(inference) is None
    assert (backend.refusal(training, by_name=False) is not None) == (name in WARNED or why is not None)
    assert backend.refusal(inference, by_name=False) is None


@pytest.mark.parametrize(("name", "number"), [("flash-attn-4", 120), ("xformers", 100)])
def test_determinism_on_other_gpus(call, installed, deterministic, capability, name, number):
    capability(number)
    deterministic("required")
    assert BACKENDS[name].refusal(call()) is None
    assert "deterministic backward" in BACKENDS[name].refusal(call(training=True))


def test_natten_is_deterministic_only_where_queries_want_a_gradient(h200, installed, deterministic):
    deterministic("required")
    q, k = h200(1, 64, 2, 64), h200(1, 64, 2, 64, requires_grad=True)
    reason = BACKENDS["natten"].refusal(Call(q, k, k, GRID, Window(2, 2, 2), None, None, None, False))
    assert "only where q wants a gradient" in reason


@pytest.mark.parametrize("name", ["flash-attn-2", "flash-attn-3", "flash-attn-4"])
@pytest.mark.parametrize("level", ["off", "warn", "required"])
def test_flash_attn_is_asked_to_be_deterministic(h200, installed, deterministic, name, level):
    deterministic(level)
    q = torch.randn(1, 64, 2, 8, requires_grad=True)
    BACKENDS[name].run(Call(q, q, q, GRID, Temporal(causal=True), None, None, None, False))
    flags = {"deterministic": True} if level != "off" and name != "flash-attn-3" else {}
    assert installed == [flags | {"causal": True}]


@pytest.mark.parametrize("level", ["off", "required"])
@pytest.mark.parametrize("pattern", [Full(), Spatial()])
def test_auto_takes_torch_with_and_without_deterministic_algorithms(h200, deterministic, level, pattern):
    deterministic(level)
    q, k, v = (h200(1, 1024, 2, 64, requires_grad=True) for _ in "qkv")
    choice = explain(q, k, v, grid=(4, 16, 16), pattern=pattern)
    assert choice.backend == "sdpa"
    assert choice.refused["triton"] == "not measured against torch's for this call"


def test_auto_takes_ours_where_torch_only_warns_of_its_backward(h200, deterministic):
    deterministic("warn")
    q, k, v = (h200(1, 1024, 2, 64, requires_grad=True) for _ in "qkv")
    assert explain(q, k, v).backend == "triton"
    assert explain(q.detach(), k.detach(), v.detach()).backend == "sdpa"


@given(st.integers(1, 12), st.data())
def test_nattens_window_is_ours(size, data):
    window = data.draw(st.integers(1, size))
    left, right = window // 2, window // 2 + window % 2 - 1
    starts = [max(i - left, 0) + (i + right >= size) * (size - i - right - 1) for i in range(size)]
    theirs = torch.tensor([[start <= key < start + window for key in range(size)] for start in starts])
    cells = torch.arange(size)
    assert torch.equal(Window._along(size, window, cells[:, None], cells[None]), theirs)


def test_natten_gets_the_grid_and_gives_the_definition(monkeypatch):
    module = ModuleType("natten.functional")

    def na3d(query, key, value, *, kernel_size, scale):
        grid = tuple(query.shape[1:4])
        flat = (t.flatten(1, 3) for t in (query, key, value))
        out, _ = attention_reference(*flat, grid=grid, pattern=Window(*kernel_size), scale=scale)
        return out.unflatten(1, grid)

    module.na3d = na3d
    library = ModuleType("natten._libnatten")
    library.HAS_LIBNATTEN = True
    for name, stand_in in (("natten", ModuleType("natten")), ("natten.functional", module), ("natten._libnatten", library)):  # noqa: E501
        monkeypatch.setitem(sys.modules, name, stand_in)
    natten._function.forget()
    q, k, v = torch.randn(3, 2, 24, 2, 8, dtype=torch.float64)
    out, lse = BACKENDS["natten"].run(Call(q, k, v, (2, 3, 4), Window(2, 2, 3), None, None, 0.3, False))
    natten._function.forget()
    truth, _ = attention_reference(q, k, v, grid=(2, 3, 4), pattern=Window(2, 2, 3), scale=0.3)
    assert lse is None and torch.equal(out, truth)
    library.HAS_LIBNATTEN = False
    assert "without its kernels" in natten._function()
    natten._function.forget()


@pytest.mark.parametrize("name", ["flash-attn-2", "flash-attn-3", "flash-attn-4", "xformers", "natten", "flex-flash"])
def test_what_is_not_installed_says_how_to_install_it(call, name):
    with pytest.raises(ValueError, match=f"'{name}' cannot serve this call: .*cannot be imported.*(install|built)"):
        api.choose(call(pattern=pattern_for(name)), name)


def test_lengths_in_a_list_go_to_the_device_of_tensors_without_data(h200):
    with FakeTensorMode():
        q = torch.zeros(2, 64, 2, 64, device="cuda:0", dtype=torch.bfloat16)
        assert explain(q, q, q, key_lengths=[60, 5]).backend == "triton"
