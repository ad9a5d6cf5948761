"""Diffusers' transformers with and without this package: the same numbers, and the way back."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from phys4d.kernels.integrate.diffusers import accelerate

NAMES = ["wan", "wan-image", "cogvideox", "cogvideox-without-rope", "latte", "ltx", "hunyuan"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture
def exact_diffusers(monkeypatch):
    """Diffusers rounds to float32 in its rotation, norms and modulation: made exact, to compare float64."""
    from diffusers.models import embeddings, normalization, transformers

    assert transformers  # every model binds its functions on import: before they are replaced

    def rotated(x, angles, sequence_dim=2):
        cosine, sine = (t.double()[None, None] if sequence_dim == 2 else t.double()[None, :, None] for t in angles)
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cosine + torch.stack((-second, first), -1).flatten(-2) * sine

    def normed(self, x):
        unit = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return unit if self.weight is None else unit * self.weight

    monkeypatch.setattr(embeddings, "apply_rotary_emb", rotated)
    monkeypatch.setattr(normalization.RMSNorm, "forward", normed)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float64) for name in NAMES),
        *((name, torch.float32) for name in ("wan-image", "cogvideox-without-rope")),
    ],
)
def test_the_numbers_are_the_models_own_and_the_way_back_is_exact(
    name, dtype, build, run, request, assert_close, assert_equal, attention_modules
):  # fmt: skip
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


def test_a_model_inside_another_module_is_found(build, run, assert_close, assert_equal):
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
def test_blocks_computed_again_belong_to_their_own_forward_pass(name, build):
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
def test_without_gradients_and_with_them_again(name, build, run, assert_close):
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


@pytest.mark.parametrize("name", ["wan", "ltx", "hunyuan"])
def test_blocks_compile_in_one_piece(name, build, run, assert_close):
    model, call = build(name)
    truth = run(model, call)
    with accelerate(model) as report:
        for path, module in model.named_modules():
            if any(path == swapped.rpartition(".")[0] for swapped in report.swapped):
                module.compile(backend="aot_eager", fullgraph=True)
        assert_close(run(model, call), truth, 1e-5)
    assert not report.passed


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


def test_a_text_that_is_masked_altogether_is_seen_as_diffusers_sees_it(build, run, assert_close):
    model, call = build("ltx", torch.float64)
    call["encoder_attention_mask"] = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    truth = run(model, call)
    with accelerate(model, parts=("attention",)) as report:
        assert_close(run(model, call), truth, 1e-8)  # its -10000 below every score costs four digits
    assert not report.passed


def test_texts_of_different_lengths_do_not_see_each_others_padding(build):
    model, call = build("hunyuan")
    changed = call["encoder_hidden_states"].clone()
    changed[0, 3:] += 1
    with torch.no_grad(), accelerate(model) as report:
        first, second = model(**call)[0], model(**call | {"encoder_hidden_states": changed})[0]
    assert torch.equal(first, second) and not report.passed


def test_changed_angles_are_seen(build, run, assert_close):
    model, call = build("cogvideox")
    with accelerate(model):
        run(model, call)
        for table in call["image_rotary_emb"]:
            table.copy_(table.flip(0))
        found = run(model, call)
    assert_close(found, run(model, call), 1e-5)


def test_fused_projections_of_an_image(build, run, assert_close, assert_equal):
    model, call = build("wan-image")
    model.fuse_qkv_projections()
    truth = run(model, call)
    with accelerate(model) as report:
        assert report.swapped and not report.left
        assert_close(run(model, call), truth, 1e-5)
    assert_equal(run(model, call), truth)


SLOW = [pytest.param(name, marks=[pytest.mark.slow]) for name in ("cogvideox", "ltx", "hunyuan")]


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["wan", *SLOW])
def test_the_kernels_in_a_model(name, build, run, device, assert_close):
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
