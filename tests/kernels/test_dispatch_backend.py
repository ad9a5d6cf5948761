"""The choice between native code, Triton and the definition."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from phys4d.kernels import native
from phys4d.kernels.dispatch import INTERPRETED, backend, choose_backend, float32_kernel_serves, triton_runs_on

X = torch.zeros(2)


def on_cuda(dtype=torch.float32):
    with FakeTensorMode():
        return torch.empty(2, dtype=dtype, device="cuda")


@pytest.mark.skipif(INTERPRETED, reason="then native code serves nothing")
def test_auto_takes_the_first_that_serves(monkeypatch):
    monkeypatch.setattr(native, "status", lambda: (True, "built"))
    assert choose_backend("auto", "op", X) == "native"
    assert choose_backend("auto", "op", on_cuda()) == "triton"
    monkeypatch.setattr(native, "status", lambda: (False, "no compiler"))
    assert choose_backend("auto", "op", X) == "reference"
    assert choose_backend("reference", "op", on_cuda()) == "reference"
    with pytest.raises(RuntimeError, match="op: the native backend cannot serve cpu: no compiler"):
        choose_backend("native", "op", X)
    with pytest.raises(RuntimeError, match="op: the triton backend cannot serve cpu: Triton kernels run on CUDA"):
        choose_backend("triton", "op", X)


def test_an_argument_without_a_gradient_of_its_own_needs_the_definition():
    wanting = torch.zeros(2, requires_grad=True)
    assert choose_backend("auto", "op", on_cuda(), {"weight": wanting}) == "reference"
    assert choose_backend("auto", "op", on_cuda(), {"weight": None, "target": X}) == "triton"
    with pytest.raises(RuntimeError, match='weight wants a gradient, which only backend="reference" gives'):
        choose_backend("triton", "op", on_cuda(), {"weight": wanting})


def test_what_a_backend_cannot_do_is_said_and_if_none_can_all_are():
    assert choose_backend("auto", "op", on_cuda(), unable={"triton": "too wide"}) == "reference"
    with pytest.raises(RuntimeError, match="op: no backend can serve cuda:0: .*triton: too wide; reference: too slow"):
        choose_backend("auto", "op", on_cuda(), unable={"triton": "too wide", "reference": "too slow"})
    with pytest.raises(ValueError, match='expected "auto", "native", "triton" or "reference", got "cuda"'):
        choose_backend("cuda", "op", X)


def test_native_code_serves_cuda_where_its_operator_was_compiled_for_it(monkeypatch):
    monkeypatch.setattr(native, "status", lambda: (True, "built for CPU and CUDA"))
    monkeypatch.setattr(native, "compiled_for", lambda operator, device: (operator, device) == ("a::b", "cuda"))
    assert choose_backend("auto", "op", on_cuda(), on_cuda="a::b") == "native"
    assert choose_backend("auto", "op", on_cuda(), on_cuda="a::c") == "triton"
    assert choose_backend("auto", "op", on_cuda()) == "triton"


def test_float32_kernels_serve_cuda_and_what_is_only_compiled_but_never_float64(monkeypatch):
    monkeypatch.setattr(backend, "TRITON_DEVICES", {"cuda"})
    meta = torch.empty(2, device="meta")
    assert float32_kernel_serves(on_cuda()) and float32_kernel_serves(meta) and not float32_kernel_serves(X)
    assert float32_kernel_serves(on_cuda(torch.bfloat16)) and not float32_kernel_serves(on_cuda(torch.float64))
    assert not triton_runs_on(X.device)
    monkeypatch.setattr(backend, "TRITON_DEVICES", {"cuda", "cpu"})
    assert float32_kernel_serves(X) and triton_runs_on(X.device) and not float32_kernel_serves(X.double())
