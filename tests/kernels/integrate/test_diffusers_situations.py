"""Every family in everything that people do to a model, accelerated before it and after it."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phys4d.kernels.integrate.diffusers import accelerate, bypass, kit, processor
from phys4d.kernels.integrate.diffusers.situations import SITUATIONS, SLOW

NAMES = ["wan", "cogvideox", "latte", "ltx", "hunyuan"]
QUICK = [name for name in SITUATIONS if name not in SLOW]
LEFT_OUT = {("latte", kind) for kind in ("fused projections", "first block cache", "magnitude cache")}  # in diffusers


@pytest.fixture(scope="module")
def models(build):
    """name -> (model, arguments), which the kit copies."""
    return {name: build(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("situation", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_situation(situation, name, models):
    found = kit.check_family(*models[name], situations=[situation])
    assert found.keys() == {f"{situation}, before", f"{situation}, after"}
    assert any(found.values()) == ((name, situation) in LEFT_OUT)


@pytest.mark.parametrize("situation", ["hooks on norms", "quantised weights", "leaves on disk"])
def test_the_kit_names_a_bypass_that_looks_at_nothing(situation, models, monkeypatch):
    monkeypatch.setattr(processor, "refusal", lambda module, known, device: None)
    with pytest.raises(AssertionError, match=f"{situation}, accelerated before: AssertionError: output of call 0"):
        kit.check_family(*models["hunyuan"], situations=[situation])


def test_the_kit_refuses_what_it_does_not_know(models):
    with pytest.raises(ValueError, match="situations: expected some of plain, "):
        kit.check_family(*models["wan"], situations=["rain"])


@pytest.mark.parametrize("name", NAMES)
def test_on_meta_and_in_fake_mode(name, models):
    """Where nothing is computed, shapes are those of the model's own code."""
    model, call = copy.deepcopy(models[name])
    accelerated = accelerate(model)
    with torch.no_grad():
        shape = model(**call)[0].shape
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
            assert model(**fakes)[0].shape == shape
        assert not accelerated.passed
        model.to("meta")
        assert model(**{k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in call.items()})[0].is_meta
    assert all(why.startswith("tensors on meta that are Tensor") for why in accelerated.passed.values())
    assert accelerated.passed


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_derivatives_are_the_models_own(name, models):
    model, call = copy.deepcopy(models[name])
    video = call["hidden_states"]

    def tangent():
        def of(x):
            return model(**(call | {"hidden_states": x}))[0]

        with torch.no_grad(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return torch.func.jvp(of, (video,), (torch.ones_like(video),))[1]

    truth = tangent()
    assert truth.abs().max() > 0
    with accelerate(model) as accelerated:
        assert torch.equal(tangent(), truth)
        assert "forward-mode" in next(iter(accelerated.passed.values()))


def test_hooks_added_after_compilation_are_seen_as_torch_sees_them(models):
    """torch.compile guards no hooks of modules (skip_nnmodule_hook_guards), in the model's own code neither."""
    (stock, call), (model, _) = copy.deepcopy(models["hunyuan"]), copy.deepcopy(models["hunyuan"])
    accelerated = accelerate(model)
    outs = []
    for each in (stock, model):
        block = each.single_transformer_blocks[0]
        block.compile(backend="eager", fullgraph=True)
        with torch.no_grad():
            each(**call)
            assert not accelerated.called
            block.attn.norm_q.register_forward_hook(lambda module, arguments, out: 2 * out)
            outs.append(each(**call)[0])
            torch.compiler.reset()
            outs.append(each(**call)[0])
    stale, seen, our_stale, our_seen = outs
    assert (seen - stale).abs().max() > 1e-3
    torch.testing.assert_close(our_stale, stale, rtol=0, atol=1e-5)
    torch.testing.assert_close(our_seen, seen, rtol=0, atol=1e-5)
    assert accelerated.called == {"single_transformer_blocks.0.attn": "norm_q and norm_k: it has hooks"}


def test_a_forward_replaced_after_compilation_is_seen(models):
    model, call = copy.deepcopy(models["hunyuan"])
    attn = model.single_transformer_blocks[0].attn
    outs = []
    with accelerate(model), torch.no_grad():
        model.single_transformer_blocks[0].compile(backend="eager", fullgraph=True)
        outs.append(model(**call)[0])
        own = attn.norm_q.forward
        attn.norm_q.forward = lambda x: 2 * own(x)
        outs.append(model(**call)[0])
    with torch.no_grad():
        outs.append(model(**call)[0])
    assert (outs[0] - outs[1]).abs().max() > 1e-3
    torch.testing.assert_close(outs[1], outs[2], rtol=0, atol=1e-5)


class _Derived(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x)


CHANGES = {
    "hook": lambda m: m.register_forward_hook(lambda *a: None),
    "pre-hook": lambda m: m.register_forward_pre_hook(lambda *a: None),
    "backward hook": lambda m: m.register_full_backward_hook(lambda *a: None),
    "forward of its own": lambda m: setattr(m, "forward", lambda x: x),
    "parametrisation": lambda m: nn.utils.parametrize.register_parametrization(m, "weight", nn.Identity()),
    "subclass": lambda m: setattr(m, "__class__", _Derived),
    "meta": lambda m: m.to("meta"),
    "integers": lambda m: setattr(m, "weight", nn.Parameter(torch.ones(4, dtype=torch.int8), requires_grad=False)),
    "no parameter": lambda m: (delattr(m, "weight"), setattr(m, "weight", torch.ones(4))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_whose_call_is_more_than_its_forward_is_called(change):
    norm, known = nn.LayerNorm(4), bypass.known_forwards(nn.LayerNorm)
    device = torch.device("cpu")
    assert bypass.refusal(norm, known, device) is None
    CHANGES[change](norm)
    assert bypass.refusal(norm, known, device) is not None


def test_hooks_on_all_modules_and_patched_classes_are_seen(monkeypatch):
    norm, known = nn.LayerNorm(4), bypass.known_forwards(nn.LayerNorm)
    hook = nn.modules.module.register_module_forward_hook(lambda *a: None)
    assert bypass.refusal(norm, known, None) == "it has hooks"
    hook.remove()
    assert bypass.refusal(norm, known, None) is None
    monkeypatch.setattr(nn.LayerNorm, "forward", lambda self, x: x)
    assert bypass.refusal(norm, known, None) == "LayerNorm.forward was replaced"
    assert not bypass.known_forwards(nn.LayerNorm)
