"""Diffusers' transformers with and without this package: the same numbers, the way back, and an honest report."""

import copy
import importlib
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from phys4d.kernels.integrate.diffusers import accelerate

NAMES = ["wan", "wan-image", "cogvideox", "cogvideox-without-rope", "latte", "ltx", "hunyuan"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture
def exact_diffusers(monkeypatch):
    """Diffusers rounds to float32 inside its rotation and its RMS norm: made exact, so that float64 can be compared."""
    from diffusers.models import embeddings, normalization

    def rotated(x, angles, sequence_dim=2):
        cosine, sine = (t.double()[None, None] if sequence_dim == 2 else t.double()[None, :, None] for t in angles)
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cosine + torch.stack((-second, first), -1).flatten(-2) * sine

    def normed(self, x):
        unit = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return unit if self.weight is None else unit * self.weight

    monkeypatch.setattr(embeddings, "apply_rotary_emb", rotated)
    monkeypatch.setattr(normalization.RMSNorm, "forward", normed)


def assert_close(found, expected, tolerance):
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


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0])
    for name, gradient in expected[1].items():
        assert found[1][name] is None if gradient is None else torch.equal(found[1][name], gradient), name


def attention_modules(model):
    return {path: module for path, module in model.named_modules() if hasattr(module, "set_processor")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_numbers_are_the_models_own_and_the_way_back_is_exact(name, dtype, build, run, request):
    if dtype == torch.float64:
        request.getfixturevalue("exact_diffusers")
    model, call = build(name, dtype)
    before = {path: attn.processor for path, attn in attention_modules(model).items()}
    truth = run(model, call)
    report = accelerate(model)
    assert report.swapped
    for path, attn in attention_modules(model).items():
        assert (attn.processor is before[path]) == (path not in report.swapped)
    assert_close(run(model, call), truth, TOLERANCE[dtype])
    assert not report.passed
    report.undo()
    assert all(attn.processor is before[path] for path, attn in attention_modules(model).items())
    assert_equal(run(model, call), truth)


@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_in_bfloat16_it_is_no_worse_than_the_model(name, build):
    model, call = build(name, torch.float64)
    with torch.no_grad():
        truth = model(**call)[0]
        model.to(torch.bfloat16)
        half = {
            key: value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for key, value in call.items()
        }
        own = (model(**half)[0] - truth).square().mean().sqrt()
        with accelerate(model):
            ours = (model(**half)[0] - truth).square().mean().sqrt()
    assert 0 < ours <= 1.2 * own


SWAPPED = {
    "wan": ["blocks.{}.attn1", "blocks.{}.attn2"],
    "wan-image": ["blocks.{}.attn1", "blocks.{}.attn2"],
    "cogvideox": ["transformer_blocks.{}.attn1"],
    "cogvideox-without-rope": ["transformer_blocks.{}.attn1"],
    "latte": ["transformer_blocks.{}.attn1", "transformer_blocks.{}.attn2", "temporal_transformer_blocks.{}.attn1"],
    "ltx": ["transformer_blocks.{}.attn1", "transformer_blocks.{}.attn2"],
    "hunyuan": ["single_transformer_blocks.{}.attn"],
}


@pytest.mark.parametrize("name", NAMES)
def test_every_attention_is_named_and_every_swapped_one_is_computed_here(name, build, monkeypatch):
    model, call = build(name)
    seen = Counter()
    api = importlib.import_module("phys4d.kernels.attention.api")
    choose = api._choose
    monkeypatch.setattr(api, "_choose", lambda call, backend: seen.update([backend]) or choose(call, backend))
    report = accelerate(model, backend="sdpa")
    expected = {path.format(block) for path in SWAPPED[name] for block in range(2)}
    left = set()
    if name == "hunyuan":
        expected.add("transformer_blocks.0.attn")
        left.add("context_embedder.token_refiner.refiner_blocks.0.attn")
    assert report.swapped.keys() == expected and report.left.keys() == left
    assert expected | left == attention_modules(model).keys()
    with torch.no_grad():
        model(**call)
    assert seen == {"sdpa": len(expected) + (2 if name == "wan-image" else 0)}  # text and image are two attentions
    text = str(report)
    assert f"{len(expected)} attentions swapped" in text and type(model).__name__ in text
    assert all(path.replace("{}", "*") in text for path in SWAPPED[name])


def test_norm_and_rotation_are_named_where_they_are_swapped(build):
    wan, ltx = accelerate(build("wan")[0]), accelerate(build("ltx")[0])
    assert wan.swapped["blocks.0.attn1"] == "norm, rotation and attention"
    assert "stay the model's own" in ltx.swapped["transformer_blocks.0.attn1"]


def test_what_it_does_not_know_it_leaves_alone():
    from diffusers import AllegroTransformer3DModel

    model = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=1, sample_width=4,
        sample_height=4, sample_frames=2, cross_attention_dim=24, caption_channels=6,
    )  # fmt: skip
    before = {path: attn.processor for path, attn in attention_modules(model).items()}
    report = accelerate(model)
    assert before and not report.swapped and list(report.left) == ["AllegroTransformer3DModel"]
    assert "0 attentions swapped" in str(report) and "WanTransformer3DModel" in str(report)
    assert all(attn.processor is before[path] for path, attn in attention_modules(model).items())
    assert list(accelerate(nn.Linear(2, 2)).left) == ["Linear"]


def test_mistakes_are_told():
    with pytest.raises(TypeError, match="torch.nn.Module"):
        accelerate("wan")
    with pytest.raises(ValueError, match="flash-attn-9"):
        accelerate(nn.Linear(2, 2), backend="flash-attn-9")


def test_a_processor_of_somebody_else_stays_and_is_named(build, run):
    class Quiet(type(build("wan")[0].blocks[0].attn1.processor)):
        pass

    model, call = build("wan")
    truth = run(model, call)
    model.blocks[1].attn1.set_processor(Quiet())
    with accelerate(model) as report:
        assert "Quiet" in report.left["blocks.1.attn1"] and len(report.swapped) == 3
        assert_close(run(model, call), truth, 1e-5)
        again = accelerate(model)
        assert not again.swapped and again.left["blocks.0.attn1"] == "swapped already"


def test_a_norm_with_hooks_stays_and_is_named(build):
    model, _ = build("cogvideox")
    model.transformer_blocks[0].attn1.norm_k.register_forward_hook(lambda module, arguments, out: 2 * out)
    report = accelerate(model)
    assert "hooks" in report.left["transformer_blocks.0.attn1"] and len(report.swapped) == 1


def test_a_model_inside_another_module_is_found(build, run):
    model, call = build("latte")
    outer = nn.ModuleDict({"policy": model, "head": nn.Linear(2, 2)})
    truth = run(model, call)
    with pytest.raises(KeyError), accelerate(outer) as report:
        assert "policy.temporal_transformer_blocks.1.attn1" in report.swapped
        assert report.swapped["policy.temporal_transformer_blocks.1.attn1"] == "attention of places"
        assert_close(run(model, call), truth, 1e-5)
        raise KeyError
    assert_equal(run(model, call), truth)


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx", "hunyuan"])
def test_blocks_computed_again_belong_to_their_own_forward_pass(name, build, run):
    """Two calls of different sizes before either's backward pass, with gradient checkpointing."""
    model, call = build(name)
    small = dict(call)
    if name == "ltx":
        small |= {"hidden_states": call["hidden_states"][:, :12], "num_frames": 2}
        small["encoder_attention_mask"] = torch.ones(2, 6, dtype=torch.bool)
    elif name == "cogvideox":
        small["hidden_states"] = call["hidden_states"][:, :2]
        small["image_rotary_emb"] = tuple(t[:12].flip(0) for t in call["image_rotary_emb"])
    else:
        small["hidden_states"] = call["hidden_states"][..., :4]

    def gradients():
        outs = [model(**arguments)[0].square().sum() for arguments in (call, small)]
        return [torch.autograd.grad(out, list(model.parameters()), allow_unused=True) for out in outs]

    truth = gradients()
    model.enable_gradient_checkpointing()
    with accelerate(model) as report:
        found = gradients()
    assert not report.passed
    for mine, theirs in zip(found, truth, strict=True):
        floor = 0.01 * max(g.abs().max() for g in theirs if g is not None)
        for one, two in zip(mine, theirs, strict=True):
            assert (one is None) == (two is None)
            if two is not None:
                assert (one - two).abs().max() <= 1e-5 * max(two.abs().max(), floor)


@pytest.mark.parametrize("name", NAMES)
def test_without_gradients_and_with_them_again(name, build, run):
    """Tables made in inference mode are not kept for training."""
    model, call = build(name)
    truth = run(model, call)
    with accelerate(model):
        with torch.inference_mode():
            inference = model(**call)[0]
        with torch.no_grad():
            plain = model(**call)[0]
        assert torch.equal(inference, plain) and not plain.requires_grad
        assert (plain - truth[0]).abs().max() <= 1e-5 * truth[0].abs().max()
        assert_close(run(model, call), truth, 1e-5)


class HostReads(TorchDispatchMode):
    """Counts the operators that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "unique")
        self.count += func.overloadpacket.__name__ in waiting
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_nothing_back_from_the_device(name, build):
    model, call = build(name)

    def reads():
        with HostReads() as mode:
            model(**call)[0].sum().backward()
        return mode.count

    own = reads()
    with accelerate(model):
        model(**call)  # the angles are looked at once
        assert reads() <= own


def test_a_mask_that_is_none_of_ones_and_zeros_goes_to_the_models_own_processor(build, run):
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


def test_a_text_that_is_masked_altogether_is_seen_as_diffusers_sees_it(build, run):
    model, call = build("ltx", torch.float64)
    call["encoder_attention_mask"] = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    truth = run(model, call)
    with accelerate(model) as report:
        assert_close(run(model, call), truth, 1e-8)  # its -10000 below every score costs four digits
    assert not report.passed


def test_texts_of_different_lengths_do_not_see_each_others_padding(build):
    model, call = build("hunyuan")
    changed = call["encoder_hidden_states"].clone()
    changed[0, 3:] += 1
    with torch.no_grad(), accelerate(model) as report:
        first, second = model(**call)[0], model(**call | {"encoder_hidden_states": changed})[0]
    assert torch.equal(first, second) and not report.passed


@pytest.mark.parametrize("kind", ["two angles in a pair", "learned"])
def test_a_rotation_outside_the_contract_goes_to_the_models_own_processor(kind, build, run):
    model, call = build("cogvideox")
    cosine, sine = (t.clone() for t in call["image_rotary_emb"])
    if kind == "learned":
        cosine.requires_grad_()
    else:
        cosine[:, 1::2] *= 0.5
    call["image_rotary_emb"] = (cosine, sine)
    with torch.no_grad():
        truth = model(**call)[0]
        with accelerate(model) as report:
            assert torch.equal(model(**call)[0], truth)
    assert report.passed.keys() == report.swapped.keys()
    assert kind in report.passed["transformer_blocks.1.attn1"]


def test_changed_angles_are_seen(build, run):
    model, call = build("cogvideox")
    with accelerate(model):
        run(model, call)
        for table in call["image_rotary_emb"]:
            table.copy_(table.flip(0))
        found = run(model, call)
    assert_close(found, run(model, call), 1e-5)


@pytest.mark.parametrize("name", ["wan", "wan-image", "cogvideox"])
def test_fused_projections(name, build, run):
    model, call = build(name)
    model.fuse_qkv_projections()
    truth = run(model, call)
    with accelerate(model) as report:
        assert report.swapped and not report.left
        assert_close(run(model, call), truth, 1e-5)
    assert_equal(run(model, call), truth)


def test_diffusers_own_backends_are_refused_while_swapped(build):
    model, _ = build("wan")
    with accelerate(model):
        model.reset_attention_backend()
        with pytest.raises(ValueError, match=r"undo\(\)"):
            model.set_attention_backend("native")
    model.set_attention_backend("native")
    model.reset_attention_backend()


def test_a_copy_computes_alone(build, run):
    model, call = build("ltx")
    truth = run(model, call)
    with accelerate(model):
        twin = copy.deepcopy(model)
    assert_close(run(twin, call), truth, 1e-5)
    assert_equal(run(model, call), truth)


def test_diffusers_is_imported_only_for_its_own_models():
    code = """
import sys, torch
import phys4d.kernels.integrate
from phys4d.kernels.integrate.diffusers import accelerate
print(accelerate(torch.nn.Linear(2, 2)))
assert "diffusers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Linear, backend auto: 0 attentions swapped")


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx", "hunyuan"])
def test_the_kernels_in_a_model(name, build, run, device):
    model, call = build(name)
    for blocks in ("blocks", "transformer_blocks", "single_transformer_blocks"):
        if hasattr(model, blocks):
            setattr(model, blocks, getattr(model, blocks)[:1])
    model.to(device)
    call = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in call.items()}
    truth = run(model, call)
    with accelerate(model, backend="triton") as report:
        assert_close(run(model, call), truth, 1e-4)
    assert report.swapped and not report.passed
