"""Heads that share keys, causal sequences and masks by the Triton kernels: against the definition in float64."""

import dataclasses

import pytest
import torch

from phys4d.kernels.attention import (
    Full,
    Spatial,
    Temporal,
    Window,
    attention,
    attention_reference,
    explain,
    short_rows,
)
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
from tests.kernels.attention.reach_cases import CASES, Case

pytestmark = pytest.mark.interpreted

LONG = (3, 5, 3)  # 45 cells: tiles of 32 and a rest
REFUSED = {name for name, case in CASES.items() if isinstance(case.pattern, Window) or case.value_dim != case.dim}
QUICK = {
    "two heads share keys", "heads share keys, rows", "causal, padded, shared", "causal, few queries",
    "causal before a text", "mask of keys", "added for all clips and queries", "mask of pairs in rows",
    "added, causal", "mask, causal, few keys",
}  # fmt: skip


def quick(name, few=QUICK):
    return name if name in few else pytest.param(name, marks=pytest.mark.slow)


SERVED = [quick(name) for name in CASES if name not in REFUSED]


def long(case):
    """The case over more than one tile, odd numbers of tokens."""
    sizes = {"queries": 41, "keys": 70} if case.queries and case.queries < case.keys else {}
    sizes = {"queries": 70, "keys": 41} if case.queries and case.queries > case.keys else sizes
    grid = (9, 1, 2) if isinstance(case.pattern, Temporal) else LONG
    return dataclasses.replace(case, grid=grid, batch=1, **sizes)


def results(function, qkv, asked, dout, dlse):
    out, lse = function(*qkv, **asked)
    loss = (out.double() * dout).sum() + (torch.where(lse.isfinite(), lse, 0).double() * dlse).sum()
    return out.detach(), lse.detach(), *torch.autograd.grad(loss, qkv)


def compare(case, device, dtype=torch.float32, rows=True):
    qkv, asked = case.tensors(dtype, device)
    exact = [t.detach().double().requires_grad_() for t in qkv]
    precise = asked | ({"mask": asked["mask"].double()} if "float" in case.mask else {})
    out, lse = attention_reference(*exact, **precise)
    generator = torch.Generator().manual_seed(9)
    dout = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(device)
    dlse = torch.randn(lse.shape, generator=generator, dtype=torch.float64).to(device)
    truth = results(attention_reference, exact, precise, dout, dlse)
    by_kernel = lambda *qkv, **asked: attention(*qkv, return_lse=True, backend="triton", **asked)  # noqa: E731
    found = results(by_kernel, qkv, asked, dout, dlse)
    for name, mine, right in zip(("out", "lse", "dq", "dk", "dv"), found, truth, strict=True):
        assert torch.equal(mine.isfinite(), right.isfinite()), name
        wanted = right.isfinite()
        assert (mine[wanted].double() - right[wanted]).abs().max() < 1e-5, name


@pytest.mark.parametrize("name", SERVED)
def test_results_and_gradients_are_those_of_the_definition(name, device, monkeypatch):
    monkeypatch.setattr(short_rows, "LONGEST", 0)
    compare(long(CASES[name]), device)


@pytest.mark.parametrize("name", ["causal", "causal, padded, shared", "heads share keys, causal rows"])
def test_short_rows_are_served_too(name, device):
    compare(CASES[name], device)


def test_a_causal_sequence_is_a_short_row(device):
    (q, k, _), _ = Case(Full(causal=True)).tensors(torch.float32, device)
    assert short_rows.serves(Full(causal=True), None, None, q.shape, k.shape, None)
    assert not short_rows.serves(Full(causal=True), None, None, q.shape, k[:, :, :2].shape, None)
    assert not short_rows.serves(Full(causal=True), None, None, q.shape, k.shape, q)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_kernels_do_not_take_is_refused_with_the_reason(name, device):
    qkv, asked = CASES[name].tensors(torch.float32, device)
    why = "values as wide as keys" if CASES[name].value_dim != 16 else "its kernel of Window"
    with pytest.raises(ValueError, match=f"'triton' cannot serve this call: .*{why}"):
        explain(*qkv, backend="triton", **asked)


def test_the_gradient_of_a_mask_is_left_to_others(device):
    qkv, asked = CASES["added"].tensors(torch.float32, device)
    asked["mask"].requires_grad_()
    with pytest.raises(ValueError, match="'triton' cannot serve this call: its kernels give no gradient of a mask"):
        attention(*qkv, backend="triton", **asked)
    with torch.no_grad():
        attention(*qkv, backend="triton", **asked)


@pytest.mark.parametrize("name", [quick(name, {"added"}) for name in ("two heads share keys", "causal", "added")])
def test_the_operator_keeps_torchs_contract(name, device):
    from phys4d.kernels.attention import ops

    case = CASES[name]
    qkv, asked = case.tensors(torch.float32, device)
    where = ops.flat_pattern(case.pattern, asked.get("grid"), case.text)
    rest = asked.get("key_lengths"), asked.get("mask"), 0.25, True, *NO_TRANSFORM
    torch.library.opcheck(ops.attention_op, (*qkv, *where, *rest))


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["two heads share keys", "causal, padded, shared", "added, causal"])
def test_error_in_half_precision_is_at_most_twice_torchs_own(name, dtype, device, monkeypatch):
    monkeypatch.setattr(short_rows, "LONGEST", 0)
    case = long(CASES[name])
    qkv, asked = case.tensors(dtype, device)
    exact = [t.detach().double().requires_grad_() for t in qkv]
    precise = asked | ({"mask": asked["mask"].double()} if "float" in case.mask else {})
    truth = attention_reference(*exact, **precise)[0]
    dout = torch.randn(truth.shape, generator=torch.Generator().manual_seed(9)).to(device, dtype)

    def errors(backend):
        out = attention(*qkv, backend=backend, **asked)
        return [
            (mine.double() - right).norm().item()
            for mine, right in zip(
                (out, *torch.autograd.grad(out, qkv, dout)),
                (truth, *torch.autograd.grad(truth, exact, dout.double(), retain_graph=True)),
                strict=True,
            )
        ]

    for ours, theirs in zip(errors("triton"), errors("sdpa"), strict=True):
        assert ours <= 2 * theirs


def test_pointers_and_descriptors_give_the_same_bits(device, monkeypatch):
    from phys4d.kernels.attention import hardware

    monkeypatch.setattr(short_rows, "LONGEST", 0)
    qkv, asked = long(CASES["heads share keys, rows"]).tensors(torch.float32, device)

    def gradients():
        out = attention(*qkv, backend="triton", **asked)
        return out, *torch.autograd.grad(out.square().sum(), qkv)

    by_descriptors = gradients()
    monkeypatch.setattr(hardware, "descriptors", lambda *arguments: False)
    assert all(torch.equal(one, two) for one, two in zip(by_descriptors, gradients(), strict=True))


def test_spatial_rows_share_heads_in_one_launch_each(device, monkeypatch):
    """Nothing is expanded: the kernels get the keys that came."""
    from phys4d.kernels.attention import flash

    seen = []
    monkeypatch.setattr(short_rows, "LONGEST", 0)
    qkv, asked = Case(Spatial(), kv_heads=2, batch=1).tensors(torch.float32, device)
    with pytest.MonkeyPatch.context() as patch:
        real = flash.launch
        patch.setattr(flash, "launch", lambda kernel, grid, *args, **options: (
            seen.append((kernel.__name__, args[1].data_ptr() == qkv[1].data_ptr(), options.get("GROUP"))),
            real(kernel, grid, *args, **options),
        ))
        attention(*qkv, backend="triton", **asked).sum().backward()
    assert seen == [("forward", True, 2), ("delta", False, None), ("queries", True, 2), ("keys", True, 2)]
