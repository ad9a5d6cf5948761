"""Every tiny model through each way to our attention: the backend of diffusers' dispatcher, `sdpa`, `accelerate`."""

import pytest
import torch

from phys4d.kernels.integrate import sdpa
from phys4d.kernels.integrate.diffusers import accelerate, register_backend, unregister_backend
from phys4d.kernels.integrate.diffusers import tiny_models as tiny

# Classes that compute attention without the dispatcher: `sdpa` reaches them, a backend cannot.
OWN_CODE = {
    "allegro", "aura-flow", "cogvideox", "cogview-4", "consisid", "easyanimate", "latte", "lumina-2", "mochi", "pixart",
    "sana", "stable-diffusion-3",
}  # fmt: skip
DISPATCHED = [name for name in tiny.MODELS if name not in OWN_CODE]


@pytest.fixture
def report():
    """By the definition of attention, whose rounding is not torch's."""
    yield register_backend("reference")
    unregister_backend()


@pytest.mark.parametrize("name", tiny.MODELS)
def test_every_model_gives_the_output_of_diffusers_own_backend(report, name):
    model, call = tiny.build(name)
    truth = tiny.output(model, call)
    model.set_attention_backend("phys4d")
    found = tiny.output(model, call)
    assert (found - truth).abs().max() <= 1e-5 * truth.abs().max()
    if name in OWN_CODE:
        assert not report.served and not report.passed and "no call reached it" in str(report)
    else:
        assert report.served and not report.passed


def test_the_table_covers_twenty_dispatched_classes():
    assert len({tiny.MODELS[name].kind for name in DISPATCHED}) >= 20


@pytest.mark.parametrize("name", tiny.MODELS)
def test_sdpa_serves_a_model_or_says_why_not(name):
    model, call = tiny.build(name)
    truth = tiny.output(model, call)
    with sdpa("reference") as calls:
        found = tiny.output(model, call)
    assert (found - truth).abs().max() <= 1e-5 * truth.abs().max()
    assert calls.served and not calls.passed


def test_sdpa_says_that_no_call_reached_it():
    with sdpa() as calls:
        torch.zeros(1).exp()
    assert "0 served; no call reached it" in str(calls)


def test_models_that_accelerate_does_not_know_stay_intact_and_are_named():
    unknown = set()
    for name, kind in tiny.MODELS.items():
        model, call = tiny.build(name)
        truth = tiny.output(model, call)
        accelerated = accelerate(model)
        if accelerated.swapped:
            continue
        assert torch.equal(tiny.output(model, call), truth), name
        assert kind.kind in accelerated.left and "not known" in accelerated.left[kind.kind]
        unknown.add(kind.kind)
    assert len(unknown) >= 20
