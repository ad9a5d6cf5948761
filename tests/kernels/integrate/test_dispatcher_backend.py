"""phys4d as a backend of diffusers' attention dispatcher: the name, its calls, context parallelism, compilation."""

import copy
import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from phys4d.kernels.attention import part_of
from phys4d.kernels.integrate.diffusers import backend_report, register_backend, unregister_backend

FOLDER = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


program = load("backend_ranks")


def dispatcher():
    from diffusers.models import attention_dispatch

    return attention_dispatch


def state():
    """All that a registration changes."""
    module = dispatcher()
    names, registry = module.AttentionBackendName, module._AttentionBackendRegistry
    tables = [getattr(registry, name) for name in ("_backends", "_constraints", "_supported_arg_names")]
    held = [dict(table) for table in (*tables, names._member_map_, names._value2member_map_)]
    kept = set(registry._supports_context_parallel), list(names._member_names_), registry._active_backend
    return *held, *kept, sorted(dir(names)), list(names)


@pytest.fixture(params=["auto"])
def report(request):
    before = state()
    yield register_backend(request.param)
    unregister_backend()
    assert state() == before


by_definition = pytest.mark.parametrize("report", ["reference"], indirect=True)


def qkv(queries=7, keys=7, heads=4, dim=8, dtype=torch.float32):
    numbers = torch.Generator().manual_seed(0)
    return [torch.randn(2, s, heads, dim, generator=numbers).to(dtype) for s in (queries, keys, keys)]


def attend(*tensors, backend="phys4d", **options):
    return dispatcher().dispatch_attention_fn(*tensors, backend=backend, **options)


def test_the_name_is_a_member_like_diffusers_own(report):
    names = dispatcher().AttentionBackendName
    member = names("phys4d")
    assert member is names.PHYS4D is names["PHYS4D"] and member in names and list(names)[-1] is member
    assert isinstance(member, str) and member == "phys4d" and member.value == "phys4d" and member.name == "PHYS4D"
    assert hash(member) == hash("phys4d") and {member: 1}["phys4d"] == 1
    assert pickle.loads(pickle.dumps(member)) is member and copy.deepcopy(member) is member
    assert repr(member) == "<AttentionBackendName.PHYS4D: 'phys4d'>" and str(member) == str(names.NATIVE).replace(
        "NATIVE", "PHYS4D"
    )
    assert set(vars(member)) == set(vars(names.NATIVE)) and type(member) is type(names.NATIVE)


def test_a_second_registration_changes_nothing(report):
    before = state()
    assert register_backend() is report is backend_report() and state() == before
    with pytest.raises(ValueError, match="registered with 'auto'"):
        register_backend("reference")
    with pytest.raises(ValueError, match="flash-attn-9"):
        register_backend("flash-attn-9")
    assert state() == before


def test_what_is_undone_is_no_backend():
    before = state()
    register_backend()
    dispatcher()._AttentionBackendRegistry.set_active_backend(dispatcher().AttentionBackendName("phys4d"))
    unregister_backend()
    unregister_backend()
    assert state() == before and dispatcher()._AttentionBackendRegistry._active_backend.value == "native"
    with pytest.raises(ValueError, match="phys4d"):
        dispatcher().AttentionBackendName("phys4d")
    with pytest.raises(RuntimeError, match="not registered"):
        backend_report()


BROKEN = {
    "no enumeration": lambda m, patch: patch.delattr(m, "AttentionBackendName"),
    "names that are no strings": lambda m, patch: patch.setattr(m, "AttentionBackendName", type("Names", (), {})),
    "no registry": lambda m, patch: patch.delattr(m, "_AttentionBackendRegistry"),
    "no table of functions": lambda m, patch: patch.delattr(m._AttentionBackendRegistry, "_backends"),
    "a list of parallel ones": lambda m, patch: patch.setattr(
        m._AttentionBackendRegistry, "_supports_context_parallel", []
    ),
    "no active backend": lambda m, patch: patch.setattr(m._AttentionBackendRegistry, "_active_backend", None),
    "no native backend": lambda m, patch: patch.delattr(m, "_native_attention"),
    "another argument": lambda m, patch: patch.setattr(m, "_native_attention", lambda query, bias: None),
    "another operation": lambda m, patch: patch.setattr(m, "_native_attention_forward_op", lambda ctx, query: None),
    "another template": lambda m, patch: patch.setattr(m, "_templated_context_parallel_attention", lambda query: None),
    "another dispatch": lambda m, patch: patch.setattr(m, "dispatch_attention_fn", lambda query: None),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_dispatcher_of_another_form_is_left_as_it_is(change, monkeypatch):
    before = state()
    with monkeypatch.context() as patch:
        change(dispatcher(), patch)
        with pytest.raises(
            RuntimeError, match=r"diffusers \d.*another form than that of 0.42.*phys4d is not registered"
        ):
            register_backend()
    assert state() == before


@by_definition
@pytest.mark.parametrize(("name", "calls"), [("wan", 4), ("hunyuan", 3)])
def test_gradients_of_a_model_are_those_of_diffusers_own_backend(report, build, run, assert_close, name, calls):
    model, call = build(name)
    truth = run(model, call)
    with dispatcher().attention_backend("phys4d"):
        assert_close(run(model, call), truth, 1e-5)
    assert (report.served, report.passed) == (calls, {})
    run(model, call)
    assert report.served == calls  # the context is closed


def causal(q: Tensor) -> Tensor:
    return torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()


CALLS = {  # options, reason why torch computes it; None where `attention` does
    "plain": (lambda q, k, v: ((q, k, v), {}), None),
    "scale": (lambda q, k, v: ((q, k, v), {"scale": 0.7}), None),
    "cross": (lambda q, k, v: ((q[:, :3], k, v), {}), None),
    "strided": (lambda q, k, v: (torch.stack((q, k, v), 2).unbind(2), {}), None),
    "grouped heads": (lambda q, k, v: ((q, k[:, :, :2], v[:, :, :2]), {"enable_gqa": True}), None),
    "causal": (lambda q, k, v: ((q, k, v), {"is_causal": True}), None),
    "boolean mask": (lambda q, k, v: ((q, k, v), {"attn_mask": causal(q)}), None),
    "additive mask": (lambda q, k, v: ((q, k, v), {"attn_mask": torch.randn(2, 1, 7, 7)}), None),
    "mask of heads": (lambda q, k, v: ((q, k, v), {"attn_mask": torch.randn(4, 1, 7)}), None),
    "padding": (lambda q, k, v: ((q, k, v), {"attn_mask": torch.arange(7) < torch.tensor([[7], [4]])}), None),
    "additive padding": (lambda q, k, v: ((q, k, v), {"attn_mask": torch.randn(2, 7)}), None),
    "other width": (lambda q, k, v: ((q, k, v[..., :4]), {}), None),
    "not contiguous": (lambda q, k, v: ((q, k.mT.contiguous().mT, v), {}), "not contiguous"),
}


@by_definition
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_served_or_passed_on_with_the_reason(report, name):
    change, why = CALLS[name]
    arguments, options = change(*qkv())
    truth = attend(*arguments, backend="native", **options)
    found = attend(*arguments, **options)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6)
    assert found.shape == truth.shape
    if why is None:
        assert (report.served, report.passed) == (1, {})
    else:
        assert report.served == 0 and [why in reason for reason in report.passed] == [True] and why in str(report)


def test_dropout_is_torchs(report):
    torch.manual_seed(3)
    truth = attend(*qkv(), backend="native", dropout_p=0.5)
    torch.manual_seed(3)
    assert torch.equal(attend(*qkv(), dropout_p=0.5), truth) and report.passed == {"dropout_p": 1}


@by_definition
def test_lse_is_the_log_of_the_sum_of_scores(report):
    q, k, v = qkv(dtype=torch.float64)
    out, lse = attend(q, k, v, attention_kwargs={"return_lse": True})
    scores = torch.einsum("bshd,bthd->bsht", q, k) * 8**-0.5
    torch.testing.assert_close(lse, scores.logsumexp(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(out, torch.einsum("bsht,bthd->bshd", scores.softmax(-1), v), rtol=0, atol=1e-12)


def test_a_compiled_model_is_one_graph_and_counted_when_traced(report, build):
    torch._dynamo.reset()
    model, call = build("wan")
    truth = model(**call)[0]
    model.set_attention_backend("phys4d")
    graphs = []
    compiled = torch.compile(model, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    with torch.no_grad():
        for _ in range(2):
            assert (compiled(**call)[0] - truth).abs().max() <= 1e-5 * truth.abs().max()
    assert report.served == 4 and len(graphs) == 1


SCRIPT = """
import sys, torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn, _AttentionBackendRegistry
assert "phys4d" not in globals() and __name__ == "__main__"
dispatch_attention_fn(*torch.randn(3, 1, 4, 2, 8))
print(_AttentionBackendRegistry._active_backend.value, *sys.argv[1:], sys.path[0])
"""


def test_the_switch_in_the_environment_of_a_script_that_does_not_know_phys4d(repository, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "phys4d.kernels.integrate.diffusers.run", str(tmp_path / "script.py"), "--steps", "3"],
        capture_output=True, text=True, timeout=120, cwd=repository,
        env=os.environ | {"DIFFUSERS_ATTN_BACKEND": "phys4d", "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["phys4d", "--steps", "3", str(tmp_path)]
    assert "backend phys4d (auto): 1 served" in done.stderr


def test_the_example_of_the_page(build, capsys):
    page = FOLDER.parents[2] / "docs" / "ways-into-a-model.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    model, call = build("wan")

    def pipe(prompt):
        with torch.no_grad():
            return SimpleNamespace(frames=model(**call)[0])

    pipe.transformer = model
    try:
        exec(example, {"pipe": pipe})
        assert "4 served" in capsys.readouterr().out
    finally:
        unregister_backend()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, repository):
    """What both ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(FOLDER / "backend_ranks.py"), str(folder)],
        cwd=repository, capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", program.CASES)
def test_context_parallelism_gives_the_results_and_gradients_of_one_process(ranks, name):
    _, tokens, gradients = program.CASES[name]
    q, k, v, weights = program.tensors(tokens)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    scores = torch.einsum("bshd,bthd->bhst", q, k) * 8**-0.5
    if (mask := program.seen(name, tokens)) is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    out = torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v)
    (out * weights).sum().backward()
    for rank, found in enumerate(ranks):
        own = part_of(tokens, rank, 2)
        torch.testing.assert_close(found[name]["out"], out[:, own], rtol=1e-5, atol=1e-5)
        assert found[name]["served"] == 1
        for which, leaf in zip("qkv", leaves if gradients else (), strict=gradients):
            torch.testing.assert_close(found[name][which], leaf.grad[:, own], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", program.MODELS)
def test_a_model_in_context_parallelism_gives_the_output_of_one_process(ranks, name):
    net, call = program.wan()
    truth = net(**call, return_dict=False)[0].detach()
    for found in ranks:
        torch.testing.assert_close(found[name]["model"], truth, rtol=1e-5, atol=1e-5)
        assert "5 served" in found[name]["report"] and "to torch" not in found[name]["report"]


def test_what_context_parallelism_would_compute_wrongly_is_refused(ranks):
    for found in ranks:
        assert found["ring"]["mask"].startswith("phys4d: ring context parallelism cannot serve this call: a mask")
        assert "another mask" in found["ulysses"]["dropout"]
