"""Which tensors are fetched by the tensor memory accelerator; others are read through pointers, with equal results."""

import pytest
import torch

from phys4d.kernels.attention import attention, hardware
from tests.kernels.operator_calls import CALLS

SHAPE = (2, 6, 3, 16)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.zeros(SHAPE), True),
        (lambda: torch.zeros(2, 6, 3, 3, 16)[:, :, 1], True),
        (lambda: torch.zeros(2, 3, 6, 16).transpose(1, 2), True),
        (lambda: torch.zeros(2, 6, 3, 20)[..., :16], True),
        (lambda: torch.zeros(2, 6, 3, 18)[..., :16], False),  # heads 72 bytes apart
        (lambda: torch.zeros(2, 6, 3, 17, dtype=torch.bfloat16)[..., :16], False),
        (lambda: torch.zeros(2, 6, 3, 24, dtype=torch.bfloat16)[..., :16], True),
        (lambda: torch.zeros(2 * 6 * 3 * 16 + 2)[2:].view(SHAPE), False),  # an address at 8 bytes
        (lambda: torch.zeros(2 * 6 * 3 * 16 + 4)[4:].view(SHAPE), True),
        (lambda: torch.zeros(2, 6, 1, 16).expand(SHAPE), False),
        (lambda: torch.zeros(2, 1, 3, 16).expand(SHAPE), False),
        (lambda: torch.zeros(()).expand(SHAPE), False),
        (lambda: torch.zeros(2, 6, 16, 3).transpose(2, 3), False),
    ],
)
def test_a_descriptor_needs_sixteen_bytes_and_contiguous_channels(make, expected):
    assert hardware.describable(make()) is expected


GRADIENTS = {
    "contiguous": (lambda shape: torch.randn(shape), True),
    "of a mean over heads": (lambda shape: torch.randn(*shape[:2], 1, shape[3]).expand(shape), True),
    "of a sum": (lambda shape: torch.randn(()).expand(shape), True),
    "transposed": (lambda shape: torch.randn(*shape[:2], shape[3], shape[2]).transpose(2, 3), True),
    "of a slice": (lambda shape: torch.randn(*shape[:3], shape[3] + 2)[..., : shape[3]], False),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_gradient_reaches_the_kernel_through_descriptors_or_pointers(kind, monkeypatch):
    used = []
    streams = hardware.streams
    monkeypatch.setattr(hardware, "streams", lambda tma, *rest: used.append(tma) or streams(tma, *rest))
    make, by_descriptor = GRADIENTS[kind]
    tensors = {name: t.detach() for name, t in CALLS["attention across"].tensors.items()}
    leaves = [tensors[name].requires_grad_() for name in "qkv"]
    torch.manual_seed(0)
    dout = make(tensors["q"].shape)
    out = attention(**tensors, backend="triton")
    found = torch.autograd.grad(out, leaves, dout)
    assert used == [True, True, by_descriptor]  # forward, towards queries, towards keys
    exact = [t.detach().double().requires_grad_() for t in leaves]
    out = attention(*exact, key_lengths=tensors["key_lengths"], backend="reference")
    for mine, right in zip(found, torch.autograd.grad(out, exact, dout.double()), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-5)
