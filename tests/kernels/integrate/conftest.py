"""Tiny random video transformers of diffusers, each with the arguments of one call."""

import pytest
import torch

from phys4d.kernels.integrate.diffusers import registered_families


def numbers(*shape, seed, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def examples():
    """name -> builder of a tiny model and its call, of all families."""
    return {name: example for family in registered_families() for name, example in family.examples.items()}


def random_model(name, dtype=torch.float32):
    """(model, arguments): weights from a fixed seed, spread so that scores are far from equal and no norm is plain."""
    torch.manual_seed(5)
    model, call = examples()[name]()
    call = {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in call.items()
    }
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "norm" in path:
                weight += 0.3 * torch.randn_like(weight)
            elif name == "latte" and ("to_q" in path or "to_k" in path):
                weight *= 4
    return model.to(dtype), call


def output_and_gradients(model, call):
    """(output, gradients of all weights and floating inputs by name)."""
    call = {
        key: value.clone().requires_grad_() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in call.items()
    }
    out = model(**call, return_dict=False)[0]
    leaves = dict(model.named_parameters()) | {
        key: value for key, value in call.items() if isinstance(value, torch.Tensor) and value.requires_grad
    }
    dout = numbers(*out.shape, seed=9, dtype=out.dtype).to(out.device)
    gradients = torch.autograd.grad(out, list(leaves.values()), dout, allow_unused=True)
    return out.detach(), dict(zip(leaves, gradients, strict=True))


def close(found, expected, tolerance):
    """Outputs and gradients by their largest entry; gradients that are 0 in theory by a hundredth of the largest."""
    (out, gradients), (true_out, true_gradients) = found, expected
    assert (out - true_out).abs().max() <= tolerance * true_out.abs().max()
    assert gradients.keys() == true_gradients.keys()
    floor = 0.01 * max(g.abs().max() for g in true_gradients.values() if g is not None)
    for name, true in true_gradients.items():
        assert (gradients[name] is None) == (true is None), name
        if true is not None:
            error = (gradients[name] - true).abs().max()
            assert error <= tolerance * max(true.abs().max(), floor), f"{name}: {error:.1e} of {true.abs().max():.1e}"


def equal(found, expected):
    assert torch.equal(found[0], expected[0])
    for name, gradient in expected[1].items():
        assert found[1][name] is None if gradient is None else torch.equal(found[1][name], gradient), name


def processors_by_path(model):
    return {path: module for path, module in model.named_modules() if hasattr(module, "set_processor")}


@pytest.fixture(scope="session")
def build():
    """(name, dtype) -> (model, arguments)."""
    return random_model


@pytest.fixture(scope="session")
def run():
    """(model, arguments) -> (output, gradients)."""
    return output_and_gradients


@pytest.fixture(scope="session")
def assert_close():
    """(found, expected, tolerance), both (output, gradients)."""
    return close


@pytest.fixture(scope="session")
def assert_equal():
    """The same, bit for bit."""
    return equal


@pytest.fixture(scope="session")
def attention_modules():
    """model -> modules with a processor, by path."""
    return processors_by_path
