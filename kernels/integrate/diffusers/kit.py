"""Checks of a family against the model's own code, for the tests of any package; needs no test framework."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.kernels.integrate.diffusers.accelerated import restore
from phys4d.kernels.integrate.diffusers.situations import (
    COPIES,
    OWN_PROCESSORS,
    SITUATIONS,
    SLOW,
    WITHOUT_GRADIENTS,
    LeftOut,
    without_stored_offloads,
)
from phys4d.kernels.integrate.diffusers.swap import accelerate

ORDERS = ("before", "after")
Result = tuple[list[Tensor], dict[str, Tensor | None]]


def check_family(
    model: nn.Module, call: dict[str, Any], *, tolerance: float = 1e-5,
    situations: Iterable[str] | None = None, orders: Iterable[str] = ORDERS, compile: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Compares a model of a registered family with its own code in everything that people do to a model.

    In every situation (`SITUATIONS`: plain, hooks on norms, LoRA, offloading, caches, copies, ...) the model is
    accelerated before it or after it. Two calls must give the outputs, and where it can be trained the gradients of all
    weights and inputs, of the same situation without acceleration; after `undo` they must be equal to the bit. The
    report must leave the same modules to the model's own code as in the plain situation, pass on no other calls, and
    name nothing as swapped after `undo`.

    Args:
        model: not accelerated, on one device, tiny, its weights random; it stays as it is.
        call: the arguments of one call by name; tensors with gradients are made of those with floating dtypes.
        tolerance: of outputs and gradients, relative to the largest entry of each tensor (for gradients at least a
            hundredth of the largest gradient).
        situations: some of `SITUATIONS`; all that are quick if None.
        orders: "before", "after" or both: when the model is accelerated.
        compile: also the situations that compile the model.

    Returns:
        "situation, order" -> "" for what was checked, or why it was left out.

    Raises:
        AssertionError: names every check that failed, with the tensor, its error and its size.
        ValueError: no such situation.
    """
    names = list(situations) if situations is not None else [n for n in SITUATIONS if compile or n not in SLOW]
    if unknown := set(names) - SITUATIONS.keys():
        raise ValueError(f"situations: expected some of {', '.join(SITUATIONS)}, got {sorted(unknown)}")
    plain = copy.deepcopy(model)
    with accelerate(plain) as accelerated:
        run(plain, plain, call, trained=False)
        left_alone = accelerated.left | accelerated.passed
    found: dict[str, str] = {}
    faults: list[str] = []
    for name in names:
        for order in orders:
            try:
                with without_stored_offloads():
                    _check(copy.deepcopy(model), copy.deepcopy(model), call, name, order, tolerance, left_alone)
                found[f"{name}, {order}"] = ""
            except LeftOut as reason:
                found[f"{name}, {order}"] = str(reason)
            except Exception as fault:  # named together with all others
                faults.append(f"{name}, accelerated {order}: {type(fault).__name__}: {fault}")
    if faults:
        raise AssertionError("\n".join(faults))
    return found


def _check(
    stock: nn.Module, model: nn.Module, call: dict[str, Any], name: str, order: str, tolerance: float,
    left_alone: dict[str, str],
) -> None:  # fmt: skip
    situate, trained = SITUATIONS[name], name not in WITHOUT_GRADIENTS
    try:
        own = situate(stock)
        stock = own if name in COPIES else stock
        truth = run(own, stock, call, trained)
    except LeftOut:
        raise
    except Exception as fault:
        raise LeftOut(f"the model's own code fails: {type(fault).__name__}: {fault}") from fault
    if order == "before":
        accelerated = accelerate(model)
        run(model, model, call, trained=False)
        changed = situate(model)
    else:
        changed = situate(model)
        model = changed if name in COPIES else model
        accelerated = accelerate(model)
    model = changed if name in COPIES else model
    compare(run(changed, model, call, trained), truth, tolerance)
    if not accelerated.swapped:
        raise AssertionError(f"nothing is swapped: {accelerated}")
    others = accelerated.left if name not in OWN_PROCESSORS else {}
    if other := (others | accelerated.passed).items() - left_alone.items():
        raise AssertionError(f"left or passed on: {dict(other)}")
    if order == "before" and name in COPIES:
        restore(model)
    else:
        accelerated.undo()
        if accelerated.swapped:
            raise AssertionError(f"swapped after undo: {accelerated.swapped}")
    compare(run(changed, model, call, trained), run(own, stock, call, trained), 0.0)


def run(function: Callable[..., Any], model: nn.Module, call: dict[str, Any], trained: bool = True) -> Result:
    """Outputs of two calls, the second with other numbers, and its gradients by name of weight or argument."""
    outs = []
    getattr(function, "reset", lambda: None)()  # of a cache: what it holds was computed otherwise
    with torch.set_grad_enabled(trained):
        for factor in (1.0, 0.7):
            leaves = {
                key: (factor * value.detach()).requires_grad_(trained)
                for key, value in call.items()
                if isinstance(value, Tensor) and value.is_floating_point()
            }
            out = function(**(call | leaves), return_dict=False)[0]
            outs.append(out.detach())
    if not trained:
        return outs, {}
    wanted = {key: value for key, value in model.named_parameters() if value.requires_grad} | leaves
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out)
    gradients = torch.autograd.grad(out, list(wanted.values()), dout, allow_unused=True)
    return outs, dict(zip(wanted, gradients, strict=True))


def compare(found: Result, truth: Result, tolerance: float) -> None:
    """AssertionError naming every output and gradient that is further than `tolerance` from the truth."""
    faults = []
    floor = 0.01 * max((float(g.abs().max()) for g in truth[1].values() if g is not None), default=0.0)
    tensors = {f"output of call {k}": pair for k, pair in enumerate(zip(found[0], truth[0], strict=True))}
    if found[1].keys() != truth[1].keys():
        faults.append(f"gradients of other names: {sorted(found[1].keys() ^ truth[1].keys())[:4]}")
    for name in found[1].keys() & truth[1].keys():
        one, two = found[1][name], truth[1][name]
        if (one is None) != (two is None):
            faults.append(f"gradient of {name}: {'missing' if one is None else 'where there is none'}")
        elif one is not None and two is not None:
            tensors[f"gradient of {name}"] = one, two
    for name, (one, two) in tensors.items():
        size = max(float(two.abs().max()), floor if name.startswith("gradient") else 0.0)
        error = float((one - two).abs().max()) if one.shape == two.shape else float("nan")
        if not error <= tolerance * size:
            faults.append(f"{name}: error {error:.1e} of {size:.1e}")
    if faults:
        raise AssertionError("; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else ""))
