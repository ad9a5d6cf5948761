"""Gate, residual, norm and modulation in the blocks of Wan and CogVideoX: timesteps, hooks, copies, memory."""

import copy

import pytest
import torch

from phys4d.kernels.integrate.diffusers import accelerate


def timesteps(call, frames=(0, 500, 250)):
    """A Wan call in which each token has the timestep of its frame: 3 frames of 2 x 3 tokens."""
    steps = torch.tensor(frames).repeat_interleave(6)
    return call | {"timestep": torch.stack((steps, steps + 1))}


@pytest.mark.parametrize("timestep_per", ["token", "frame"])
def test_timesteps_of_tokens(timestep_per, build, run, assert_close, assert_equal):
    model, call = build("wan")
    call = timesteps(call)
    truth = run(model, call)
    with accelerate(model, parts=("norm",), timestep_per=timestep_per) as report:
        assert_close(run(model, call), truth, 1e-5)
        frames = ["condition_embedder"] * (timestep_per == "frame")
        assert report.swapped.keys() == {"blocks.0", "blocks.1", *frames}
        assert not report.left and not report.passed
    assert_equal(run(model, call), truth)


def test_one_timestep_for_a_clip_is_served_as_before_with_timesteps_of_frames(build, run, assert_close):
    model, call = build("wan")
    truth = run(model, call)
    with accelerate(model, timestep_per="frame"):
        assert_close(run(model, call), truth, 1e-5)


def test_time_is_embedded_once_for_each_frame(build):
    model, call = build("wan")
    sizes = []
    model.condition_embedder.time_proj.register_forward_hook(lambda module, arguments, out: sizes.append(out.shape))
    with torch.no_grad(), accelerate(model, timestep_per="frame"):
        model(**timesteps(call))
    assert sizes == [(2, 3, 6 * 32)]


def test_a_broken_promise_is_told(build):
    model, call = build("wan")
    call = timesteps(call)
    call["timestep"][1, 4] += 1
    with (
        accelerate(model, timestep_per="frame"),
        pytest.raises(RuntimeError, match="tokens of one frame have different timesteps"),
    ):
        model(**call)


def test_a_block_that_is_left_alone_keeps_timesteps_of_tokens(build, run, assert_close):
    model, call = build("wan")
    call = timesteps(call)
    truth = run(model, call)
    own = model.blocks[1].forward
    model.blocks[1].forward = lambda *arguments: own(*arguments)
    with accelerate(model, timestep_per="frame") as report:
        assert_close(run(model, call), truth, 1e-5)
        assert "replaced by other code" in report.left["blocks.1"]
        assert "cannot read one row per frame" in report.left["condition_embedder"]


def test_a_block_that_is_replaced_later_gets_timesteps_of_tokens(build, run, assert_close):
    model, call = build("wan")
    call = timesteps(call)
    truth = run(model, call)
    own = model.blocks[1].forward
    with accelerate(model, timestep_per="frame") as report:
        model.blocks[1].forward = lambda *arguments: own(*arguments)
        assert_close(run(model, call), truth, 1e-5)
        assert "replaced since" in report.left["blocks.1"]


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_gradients_of_every_parameter_and_no_new_names(name, build):
    model, call = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with accelerate(model, parts=("norm",)):
        model(**call)[0].square().sum().backward()
        assert model.state_dict().keys() == before.keys() and list(dict(model.named_parameters())) != []
        assert all(p.grad is not None for key, p in model.named_parameters() if "norm_out" not in key)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_block_of_another_class_or_with_another_forward_is_left_alone(build):
    model, _ = build("wan")

    class Louder(type(model.blocks[0])):
        def forward(self, *arguments):
            return 2 * super().forward(*arguments)

    model.blocks[0].__class__ = Louder
    model.blocks[1].forward = lambda *arguments, **options: None
    report = accelerate(model, parts=("norm",))
    assert not report.swapped
    assert report.left["blocks.0"] == "Louder is not diffusers' WanTransformerBlock"
    assert report.left["blocks.1"].startswith("its forward was replaced by other code (")


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_what_was_put_over_it_survives_undo(name, build, run, assert_close, assert_equal):
    model, call = build(name)
    truth = run(model, call)
    report = accelerate(model)
    block = (model.blocks if name == "wan" else model.transformer_blocks)[0]
    ours, calls = block.forward, []
    block.forward = lambda *arguments, **options: calls.append(1) or ours(*arguments, **options)
    assert_close(run(model, call), truth, 1e-5)
    report.undo()
    assert_equal(run(model, call), truth)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_a_copy_computes_by_its_own_weights(name, build, run, assert_close):
    model, call = build(name)
    truth = run(model, call)
    with accelerate(model):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert_close(run(twin, call), truth, 1e-5)


def kept_bytes(model, call):
    """Of distinct memory that a forward pass leaves for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t, t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(**call)
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize(("name", "share"), [("wan", 0.75), ("cogvideox", 0.95)])
def test_less_is_kept_for_the_backward_pass(name, share, build):
    model, call = build(name)
    if name == "wan":
        call = timesteps(call)
    own = kept_bytes(model, call)
    with accelerate(model, parts=("norm",), timestep_per="frame"):
        assert kept_bytes(model, call) <= share * own
