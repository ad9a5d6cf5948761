"""What is swapped in diffusers' transformers, what is left alone, and that both are said."""

import importlib
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from phys4d.kernels.integrate.diffusers import accelerate, tiny_models

NAMES = ["wan", "wan-image", "cogvideox", "cogvideox-without-rope", "latte", "ltx", "hunyuan"]


SWAPPED = {
    "wan": ["blocks.{}.attn1", "blocks.{}.attn2", "blocks.{}"],
    "wan-image": ["blocks.{}.attn1", "blocks.{}.attn2", "blocks.{}"],
    "cogvideox": ["transformer_blocks.{}.attn1", "transformer_blocks.{}"],
    "cogvideox-without-rope": ["transformer_blocks.{}.attn1", "transformer_blocks.{}"],
    "latte": ["transformer_blocks.{}.attn1", "transformer_blocks.{}.attn2", "temporal_transformer_blocks.{}.attn1"],
    "ltx": ["transformer_blocks.{}.attn1", "transformer_blocks.{}.attn2", "transformer_blocks.{}"],
    "hunyuan": ["single_transformer_blocks.{}.attn", "single_transformer_blocks.{}"],
}


@pytest.mark.parametrize("name", NAMES)
def test_every_attention_is_named_and_every_swapped_one_is_computed_here(name, build, monkeypatch, attention_modules):
    model, call = build(name)
    seen = Counter()
    api = importlib.import_module("phys4d.kernels.attention.api")
    choose = api.choose
    monkeypatch.setattr(api, "choose", lambda call, backend: seen.update([backend]) or choose(call, backend))
    report = accelerate(model, backend="sdpa")
    expected = {path.format(block) for path in SWAPPED[name] for block in range(2)}
    if name == "hunyuan":
        expected |= {"transformer_blocks.0", "transformer_blocks.0.attn"}
        expected.add("context_embedder.token_refiner.refiner_blocks.0.attn")
    assert report.swapped.keys() == expected and not report.left
    attentions = {path for path in expected if path.rpartition(".")[2].startswith("attn")}
    assert attentions == attention_modules(model).keys()
    with torch.no_grad():
        model(**call)
    assert seen == {"sdpa": len(attentions) + (2 if name == "wan-image" else 0)}  # text and image are two attentions
    text = str(report)
    assert f"{len(expected)} modules swapped" in text and type(model).__name__ in text
    assert all(path.replace("{}", "*") in text for path in SWAPPED[name])


def test_norm_and_rotation_are_named_where_they_are_swapped(build):
    wan, ltx = accelerate(build("wan")[0]), accelerate(build("ltx")[0])
    assert wan.swapped["blocks.0.attn1"] == "norm, rotation and attention"
    assert "stay the model's own" in ltx.swapped["transformer_blocks.0.attn1"]


def test_what_it_does_not_know_it_leaves_alone(attention_modules):
    model, _ = tiny_models.build("helios")
    before = {path: attn.processor for path, attn in attention_modules(model).items()}
    report = accelerate(model)
    assert before and not report.swapped and list(report.left) == ["HeliosTransformer3DModel"]
    assert "0 modules swapped" in str(report) and "WanTransformer3DModel" in str(report)
    assert all(attn.processor is before[path] for path, attn in attention_modules(model).items())
    assert list(accelerate(nn.Linear(2, 2)).left) == ["Linear"]


def test_mistakes_are_told():
    with pytest.raises(TypeError, match="torch.nn.Module"):
        accelerate("wan")
    with pytest.raises(ValueError, match="flash-attn-9"):
        accelerate(nn.Linear(2, 2), backend="flash-attn-9")
    for parts in ((), ("norms",), "norm"):
        with pytest.raises(ValueError, match="parts .*expected some of"):
            accelerate(nn.Linear(2, 2), parts=parts)
    with pytest.raises(ValueError, match='"norm" among the parts'):
        accelerate(nn.Linear(2, 2), parts=("attention",), timestep_per="frame")


def test_a_processor_of_somebody_else_stays_and_is_named(build, run, assert_close):
    class Quiet(type(build("wan")[0].blocks[0].attn1.processor)):
        pass

    model, call = build("wan")
    truth = run(model, call)
    model.blocks[1].attn1.set_processor(Quiet())
    with accelerate(model) as report:
        assert "Quiet" in report.left["blocks.1.attn1"] and len(report.swapped) == 3 + 2
        assert_close(run(model, call), truth, 1e-5)
        again = accelerate(model)
        assert not again.swapped and again.left["blocks.0.attn1"] == again.left["blocks.0"] == "swapped already"


def test_a_norm_with_hooks_is_called_and_named(build):
    model, call = build("cogvideox")
    model.transformer_blocks[0].attn1.norm_k.register_forward_hook(lambda module, arguments, out: 2 * out)
    report = accelerate(model)
    assert not report.left and "norm_k is called as it is: it has hooks" in report.swapped["transformer_blocks.0.attn1"]
    model(**call)
    assert report.called == {"transformer_blocks.0.attn1": "norm_q and norm_k: it has hooks"}
    assert not report.passed and "called as they are" in str(report)


def test_a_mask_that_is_none_of_ones_and_zeros_goes_to_the_models_own_processor(build, run, assert_close):
    model, call = build("ltx")
    soft = call | {"encoder_attention_mask": torch.tensor([[1, 0.9999, 1, 0, 0, 0], [0, 1, 0, 1, 0.9998, 1]])}
    truth, soft_truth = run(model, call), run(model, soft)
    with accelerate(model) as report:
        assert_close(run(model, call), truth, 1e-5)
        assert not report.passed
        assert_close(run(model, soft), soft_truth, 1e-5)
        assert report.passed.keys() == {"transformer_blocks.0.attn2", "transformer_blocks.1.attn2"}
        assert "passed on" in str(report) and "float32" in str(report)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("kind", ["two angles in a pair", "learned"])
def test_a_rotation_outside_the_contract_goes_to_the_models_own_processor(kind, build):
    model, call = build("cogvideox")
    cosine, sine = (t.clone() for t in call["image_rotary_emb"])
    if kind == "learned":
        cosine.requires_grad_()
    else:
        cosine[:, 1::2] *= 0.5
    call["image_rotary_emb"] = (cosine, sine)
    with torch.no_grad():
        truth = model(**call)[0]
        with accelerate(model, parts=("attention",)) as report:
            assert torch.equal(model(**call)[0], truth)
            assert report.passed.keys() == report.swapped.keys()
    assert kind in report.passed["transformer_blocks.1.attn1"]


def test_diffusers_own_backends_are_refused_while_swapped(build):
    model, _ = build("wan")
    with accelerate(model):
        model.reset_attention_backend()
        with pytest.raises(ValueError, match=r"undo\(\)"):
            model.set_attention_backend("native")
    model.set_attention_backend("native")
    model.reset_attention_backend()


def test_diffusers_is_imported_only_for_its_own_models():
    code = """
import sys, torch
import phys4d.kernels.integrate
from phys4d.kernels.integrate.diffusers import accelerate, tiny_models
print(accelerate(torch.nn.Linear(2, 2)))
assert "diffusers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Linear, backend auto: 0 modules swapped")
