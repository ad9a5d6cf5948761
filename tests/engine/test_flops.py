"""FLOPs of a step by hand: frozen and trained layers, checkpointing, attention, convolutions, compiled functions."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from phys4d.engine.training.flops import FlopCount, device_peak, peak_of

ROWS, WIDTH = 6, 8
LAYER = 2 * ROWS * WIDTH * WIDTH  # one product of a layer


def layers(*trained: bool) -> nn.Sequential:
    net = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in trained])
    for layer, trains in zip(net, trained, strict=True):
        layer.requires_grad_(trains)
    return net


def counted(loss: Callable[[], Tensor]) -> FlopCount:
    with FlopCount() as count:
        loss().backward()
    return count


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("trained", "products"),
    [
        ((True, True), 2 + 2 + 1),  # forward; weights; the activation between them, not the input's
        ((False, True), 2 + 1),  # heads alone: no gradient goes into what is frozen
        ((True, False), 2 + 1 + 1),  # the gradient goes through the frozen layer, not into its weight
        ((True, False, True), 3 + 2 + 2),
    ],
)
def test_the_gradients_that_are_needed(trained: tuple[bool, ...], products: int, device: str) -> None:
    net, x = layers(*trained).to(device), torch.randn(ROWS, WIDTH, device=device)
    count = counted(lambda: net(x).square().sum())
    assert (count.model, count.hardware) == (products * LAYER, products * LAYER)


def test_an_evaluation_without_gradients_counts_forward_alone() -> None:
    net, x = layers(True, True), torch.randn(ROWS, WIDTH)
    for context in (torch.no_grad(), torch.inference_mode()):
        with FlopCount() as count, context:
            net(x)
        assert (count.model, count.hardware) == (2 * LAYER, 2 * LAYER)


class Scaled(torch.autograd.Function):
    """A product with a fixed matrix, by an autograd function of its own, as attention has one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ weight.t(), None


def test_what_checkpointing_evaluates_again_is_executed_but_no_part_of_the_model() -> None:
    net, weight, x = layers(True, True), torch.randn(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)

    def block(y: Tensor) -> Tensor:
        return net[1](Scaled.apply(net[0](y).tanh(), weight).tanh()).tanh()

    plain = counted(lambda: block(x).sum())
    again = counted(lambda: checkpoint(block, x, use_reentrant=False).sum())
    assert plain.model == plain.hardware == again.model == (3 + 2 + 2) * LAYER
    assert again.hardware == plain.hardware + 3 * LAYER

    def kept(ctx: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        products = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return CheckpointPolicy.MUST_SAVE if op in products else CheckpointPolicy.PREFER_RECOMPUTE

    selective = counted(
        lambda: checkpoint(
            block, x, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(kept)
        ).sum()
    )
    assert (selective.model, selective.hardware) == (plain.model, plain.hardware)


def test_attention_counts_twice_its_forward_backward_and_two_and_a_half_times_as_executed() -> None:
    """torch's own on the CPU, of which torch itself counts nothing: one clip, 2 heads, 6 queries, 10 keys."""
    q, k, v = (torch.randn(1, 2, n, WIDTH, requires_grad=True) for n in (6, 10, 10))
    forward = 2 * 6 * 10 * 2 * 2 * WIDTH
    count = counted(lambda: F.scaled_dot_product_attention(q, k, v).sum())
    assert (count.model, count.hardware) == (3 * forward, 3 * forward + forward // 2)
    kept = counted(lambda: checkpoint(F.scaled_dot_product_attention, q, k, v, use_reentrant=False).sum())
    assert (kept.model, kept.hardware) == (3 * forward, 4 * forward + forward // 2)


@pytest.mark.parametrize("trained", [True, False])
def test_a_convolution_counts_its_weights_only_where_they_are_trained(trained: bool) -> None:
    conv = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)).requires_grad_(trained)
    x = torch.randn(2, 3, 2, 5, 5, requires_grad=True)
    one = 2 * (2 * 2 * 5 * 5) * 4 * 3 * 9
    count = counted(lambda: conv(x).sum())
    assert count.model == one * (3 if trained else 2)


def test_a_compiled_function_runs_compiled_and_counts_the_same() -> None:
    """Torch's own counter would have it run eagerly, in a run that must not change because it is counted."""
    net, x = layers(True, False), torch.randn(ROWS, WIDTH)
    seen: list[bool] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(True)
            return graph.forward(*args)

        return run

    compiled = torch.compile(net, backend=backend, fullgraph=True)
    count = counted(lambda: compiled(x).sum())
    assert seen and (count.model, count.hardware) == ((2 + 1 + 1) * LAYER, (2 + 1 + 1) * LAYER)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    count = counted(lambda: compiled(x).sum())
    assert (count.model, count.hardware) == ((2 + 1 + 1) * LAYER, (2 + 1 + 1) * LAYER)


def test_operators_of_higher_order_and_arguments_by_name_pass_the_count() -> None:
    """FlexAttention is one of higher order, which torch has a formula for."""
    q, k, v = (torch.randn(1, 2, 16, 16) for _ in range(3))
    with FlopCount() as count, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        flex_attention(q, k, v)
    assert count.model == 2 * 16 * 16 * 2 * 2 * 16
    out = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
    with FlopCount() as count:
        torch.mm(torch.ones_like(out), torch.ones(WIDTH, WIDTH, dtype=torch.float64), out=out)
    assert count.model == LAYER and out.sum() == ROWS * WIDTH * WIDTH


def test_counting_changes_no_bit_and_agrees_with_torchs_counter() -> None:
    torch.manual_seed(0)
    net, x = layers(True, True, True), torch.randn(ROWS, WIDTH)
    gradients = []
    for context in (None, FlopCount(), FlopCounterMode(display=False)):
        net.zero_grad()
        if context is None:
            net(x).square().sum().backward()
        else:
            with context:
                net(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        counter = context
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))
    assert isinstance(counter, FlopCounterMode)
    assert counter.get_total_flops() == counted(lambda: net(x).square().sum()).hardware


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989), ("NVIDIA H200 NVL", 835), ("NVIDIA B200", 2250),
        ("NVIDIA GB200", None), ("NVIDIA GH200 480GB", None), ("NVIDIA GeForce RTX 4090", None), ("cpu", None),
    ],
)  # fmt: skip
def test_the_peak_of_a_device(name: str, tflops: float | None) -> None:
    peak = peak_of(name)
    assert peak.tflops == tflops and name in peak.reason


def test_the_peak_of_this_process_is_that_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 of {device}")
    assert device_peak(torch.device("cuda", 1)).reason == "dense bf16 of NVIDIA H200 of cuda:1 by NVIDIA's data sheet"
    assert device_peak(torch.device("cpu")).tflops is None
