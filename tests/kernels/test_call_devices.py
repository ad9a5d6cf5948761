"""The tensors of a call are on one device, and every kernel is launched there."""

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d import kernels
from phys4d.kernels.attention import Temporal, attention, hardware, ops
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
from phys4d.kernels.dispatch import expect_one_device, launch, on_device_of
from tests.kernels.operator_calls import CALLS

MIXED = [(name, argument) for name, call in CALLS.items() for argument in call.tensors if len(call.tensors) > 1]


@pytest.mark.parametrize(("name", "argument"), MIXED)
def test_a_tensor_on_another_device_is_refused_by_its_name(name, argument):
    call = CALLS[name]
    with pytest.raises(ValueError) as refused:
        call.outputs("auto", call.tensors | {argument: call.tensors[argument].to("meta")})
    assert re.search(r"\bmeta\b", str(refused.value)) and re.search(r"\bcpu\b", str(refused.value))
    named = re.sub("^[qk]_(?=weight|bias)", "", argument)  # of queries and of keys a norm has one
    assert re.search(rf"\b{named}\b", str(refused.value))


@pytest.mark.parametrize("name", CALLS)
def test_tensors_without_data_give_shapes(name):
    """In a mode of fake tensors, in which the compiler traces, and which holds no data."""
    call = CALLS[name]
    expected = call.outputs("auto", call.tensors)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            found = call.outputs("auto", {name: mode.from_tensor(t) for name, t in call.tensors.items()})
        except (
            torch._subclasses.fake_tensor.DataDependentOutputException,
            torch._subclasses.fake_tensor.DynamicOutputShapeException,
        ):
            assert name in ("umeyama", "chamfer_objects")  # they look at their numbers
            return
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in expected]


def test_the_message_names_both_arguments_and_devices():
    x = torch.zeros(2)
    expect_one_device("op", x=x, absent=None, y=x)
    with pytest.raises(ValueError, match="op: expected all tensors on one device, got x on cpu and mask on meta"):
        expect_one_device("op", x=x, absent=None, mask=x.to("meta"))


class OnSecondGPU(torch.Tensor):
    """Stands in for a tensor on cuda:1."""

    is_cuda = True

    def get_device(self) -> int:
        return 1


class Kernel:
    """Records on which device it is launched."""

    __name__ = "recorded"

    def __init__(self, gpus):
        self.gpus, self.launched_on = gpus, []

    def run(self, *args, grid, warmup):
        self.launched_on.append(self.gpus.current)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, of which the first is the current one, as torch.cuda gives them."""

    class Two:
        current = 0

        def __init__(self, device):
            self.wanted = device

        def __enter__(self):
            self.before, Two.current = Two.current, self.wanted

        def __exit__(self, *fault):
            Two.current = self.before

    monkeypatch.setattr(torch.cuda, "current_device", lambda: Two.current)
    monkeypatch.setattr(torch.cuda, "device", Two)
    return Two


def on_second(tensor):
    return tensor.as_subclass(OnSecondGPU)


def test_a_kernel_is_launched_on_the_device_of_its_tensors(gpus):
    kernel = Kernel(gpus)
    launch(kernel, 1, on_second(torch.zeros(2)), 5)
    assert kernel.launched_on == [1] and gpus.current == 0
    gpus.current = 1
    launch(kernel, 1, on_second(torch.zeros(2)))
    assert kernel.launched_on == [1, 1] and gpus.current == 1
    gpus.current = 0
    launch(kernel, 1, torch.zeros(2))
    assert kernel.launched_on == [1, 1, 0]


def test_the_device_comes_back_after_a_fault(gpus):
    with pytest.raises(KeyError), on_device_of(on_second(torch.zeros(2))):
        assert gpus.current == 1
        raise KeyError
    assert gpus.current == 0


def test_attention_takes_the_options_of_the_gpu_of_its_tensors(gpus, monkeypatch):
    """Of another generation than the current one, for example."""
    asked = []

    class Asked(Exception):
        pass

    def architecture():
        asked.append(gpus.current)
        raise Asked

    monkeypatch.setattr(hardware, "architecture", architecture)
    for module in ("flash", "short_rows", "window"):
        monkeypatch.setattr(f"phys4d.kernels.attention.{module}.INTERPRETED", False)
    q = on_second(torch.zeros(1, 8, 2, 16))
    where = ops.flat_pattern(Temporal(), (2, 2, 2), None)
    rest = (*where, None, None, 1.0, *NO_TRANSFORM)
    with pytest.raises(Asked):
        ops.forward(q, q, q, *rest[:7], False, *rest[7:])
    with pytest.raises(Asked):
        ops.backward(q, q, q, q, torch.zeros(0), q, None, *rest, False)
    assert asked == [1, 1]


def test_every_launch_goes_through_the_one_that_sets_the_device():
    root = Path(next(iter(kernels.__path__)))
    direct = re.compile(r"kernels?(\.\w+)?\[|\.run\([^)]*grid=|\bwarmup=")
    found = [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        for line in file.read_text().splitlines()
        if direct.search(line)
    ]
    assert len(found) == 1 and found[0].startswith("dispatch/launch.py: kernel.run("), found


def test_lengths_on_another_device_are_refused_with_either_kind_of_tensor():
    q = torch.zeros(2, 8, 1, 16)
    lengths = torch.tensor([3, 8])
    with pytest.raises(ValueError, match="key_lengths: expected on meta as q is, got on cpu"):
        attention(q.to("meta"), q.to("meta"), q.to("meta"), key_lengths=lengths)
    with pytest.raises(ValueError, match="key_lengths: expected on cpu as q is, got on meta"):
        attention(q, q, q, key_lengths=lengths.to("meta"))
