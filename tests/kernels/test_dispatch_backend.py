"""The choice between native code, Triton and the definition."""

import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from phys4d.kernels import native
from phys4d.kernels.dispatch import (
    INTERPRETED,
    backend,
    choose_backend,
    float32_kernel_serves,
    interpreter,
    triton_runs_on,
)

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


@pytest.mark.parametrize(
    ("triton_version", "numpy_version", "works"),
    [
        ("3.6.0", "2.3.5", True),
        ("3.6.0", "2.4.0", False),
        ("3.6.0+git1", "2.10.1", False),
        ("3.7.1", "2.5.2", True),
        ("3.10.0", "2.4.0", True),
    ],
)
def test_the_interpreter_of_triton_36_needs_an_older_numpy(triton_version, numpy_version, works):
    assert (interpreter.interpreter_fault(triton_version, numpy_version) is None) == works


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_an_interpreter_that_does_not_work_is_refused_at_import(interpret):
    code = (
        "import numpy, triton; numpy.__version__ = '2.4.1'; triton.__version__ = '3.6.0'; "
        "from phys4d.kernels.dispatch import INTERPRETED; print(INTERPRETED)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": interpret}
    )
    if interpret == "0":
        assert run.stdout == "False\n", run.stderr
    else:
        assert run.returncode == 1
        assert 'does not work with numpy 2.4.1; install "numpy<2.4", or triton 3.7 or newer' in run.stderr
