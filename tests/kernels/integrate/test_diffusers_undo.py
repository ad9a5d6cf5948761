"""The report is true and undo exact, whatever other code does to the model in between."""

import copy
import dataclasses
from types import SimpleNamespace

import accelerate as hf
import pytest
import torch
from torch import nn

from phys4d.kernels.integrate.diffusers import Family, accelerate, register, register_family, restore, tiny_models


@pytest.fixture
def wan(build):
    return build("wan")


def output(model, call):
    with torch.no_grad():
        return model(**call)[0]


def test_a_processor_set_since_is_named_and_survives_undo(wan):
    model, _ = wan
    mine = type(model.blocks[0].attn1.processor)()
    accelerated = accelerate(model)
    model.blocks[0].attn1.set_processor(mine)
    assert accelerated.left["blocks.0.attn1"] == "its processor was replaced since, by WanAttnProcessor"
    assert "blocks.0.attn1" not in accelerated.swapped and "replaced since" in str(accelerated)
    accelerated.undo()
    assert model.blocks[0].attn1.processor is mine


def test_undo_below_a_cache_leaves_nothing_behind(wan):
    from diffusers import FirstBlockCacheConfig

    model, call = wan
    truth = output(model, call)
    accelerated = accelerate(model)
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert "under the hooks" in accelerated.swapped["blocks.0"]
    accelerated.undo()
    model.disable_cache()
    assert torch.equal(output(model, call), truth)
    again = accelerate(model)
    assert not again.left and len(again.swapped) == 6
    again.undo()
    assert torch.equal(output(model, call), truth)


def test_projections_fused_since_are_named_and_unfused_to_the_models_own(build):
    model, call = build("cogvideox")
    truth = output(model, call)
    own = {path: type(p) for path, p in model.attn_processors.items()}
    accelerated = accelerate(model)
    model.fuse_qkv_projections()
    why = "its processor was replaced since, by FusedCogVideoXAttnProcessor2_0"
    assert accelerated.left == {f"transformer_blocks.{k}.attn1": why for k in range(2)}
    model.unfuse_qkv_projections()
    assert not accelerated.left  # diffusers put the processors of this package back
    model.fuse_qkv_projections()
    accelerated.undo()
    model.unfuse_qkv_projections()
    assert {path: type(p) for path, p in model.attn_processors.items()} == own
    assert torch.equal(output(model, call), truth)
    assert not accelerate(model).left


def test_projections_of_a_wan_fused_since_stay_with_this_package(wan):
    model, call = wan
    truth = output(model, call)
    accelerated = accelerate(model)
    model.fuse_qkv_projections()
    assert (output(model, call) - truth).abs().max() <= 1e-5 * truth.abs().max()
    assert len(accelerated.swapped) == 6 and not accelerated.passed


@pytest.mark.parametrize("order", ["before", "after"])
def test_hooks_of_other_code_survive(order, wan):
    model, call = wan
    truth = output(model, call)
    hook = hf.hooks.ModelHook()
    if order == "before":
        accelerated = accelerate(model, timestep_per="frame")
        hf.hooks.add_hook_to_module(model.condition_embedder, hook)
        hf.hooks.add_hook_to_module(model.blocks[0], hook)
    else:
        hf.hooks.add_hook_to_module(model.condition_embedder, hook)
        hf.hooks.add_hook_to_module(model.blocks[0], hook)
        accelerated = accelerate(model, timestep_per="frame")
    assert len(accelerated.swapped) == 7 and not accelerated.left
    output(model, call)
    accelerated.undo()
    for module in (model.condition_embedder, model.blocks[0]):
        assert module._hf_hook is hook and "forward" in module.__dict__
    assert torch.equal(output(model, call), truth)
    hf.hooks.remove_hook_from_module(model, recurse=True)
    assert torch.equal(output(model, call), truth)
    assert not accelerate(model).left


def test_a_backend_chosen_before_is_named_and_restored(wan):
    model, _ = wan
    try:
        model.set_attention_backend("_native_math")
        accelerated = accelerate(model)
        assert "_native_math that was set for it has no effect" in accelerated.report().notes["blocks.0.attn1"]
        assert "_native_math" in accelerated.report().notes["diffusers"]
        accelerated.undo()
        assert model.blocks[0].attn1.processor._attention_backend == "_native_math"
    finally:
        model.set_attention_backend("native")
    assert "diffusers" not in accelerate(model).report().notes


def test_what_is_put_into_the_model_since_is_named(wan):
    model, _ = wan
    accelerated = accelerate(model)
    model.blocks[1] = copy.deepcopy(model.blocks[1])
    restore(model.blocks[1])
    assert accelerated.left["blocks.1"] == "it was replaced by another module since"
    assert "replaced since" in accelerated.left["blocks.1.attn1"] and len(accelerated.swapped) == 3
    del model.blocks[1]
    assert accelerated.left["blocks.1"] == "it is no longer in the model"


def test_after_undo_the_report_says_so(wan):
    model, _ = wan
    accelerated = accelerate(model)
    accelerated.undo()
    accelerated.undo()
    assert not accelerated.swapped and "undone" in str(accelerated)


def test_a_second_acceleration_neither_undoes_nor_claims_the_first(wan):
    model, _ = wan
    first = accelerate(model)
    with accelerate(model) as second:
        assert not second.swapped and set(second.left.values()) == {"swapped already"}
    assert len(first.swapped) == 6


def test_strict_restores_everything_and_names_what_would_be_left(build):
    model, _ = build("sana-video")
    before = dict(model.attn_processors)
    with pytest.raises(ValueError, match=r"^strict: transformer_blocks\.0\.attn1 is left alone: its atten"):
        accelerate(model, strict=True)
    assert all(processor is before[path] for path, processor in model.attn_processors.items())
    assert not accelerate(build("wan")[0], strict=True).left
    with pytest.raises(ValueError, match="strict: Linear is left alone: not known"):
        accelerate(nn.Linear(2, 2), strict=True)


def test_options_that_do_nothing_are_named(build):
    model, _ = build("latte")
    with pytest.raises(ValueError, match="nothing in LatteTransformer3DModel"):
        accelerate(model, parts=("norm",))
    accelerated = accelerate(model, timestep_per="frame")
    assert "timestep_per='frame' is nothing" in accelerated.report().notes["LatteTransformer3DModel"]
    both = nn.ModuleDict({"latte": build("latte")[0], "wan": build("wan")[0]})
    accelerated = accelerate(both, parts=("norm",))
    assert accelerated.swapped.keys() == {"wan.blocks.0", "wan.blocks.1"}
    assert accelerated.report().notes == {"latte": "its blocks keep their own norms and modulation"}


def test_a_pipeline_with_two_experts_and_an_unknown_part(build):
    other, _ = tiny_models.build("helios")
    parts = {"transformer": build("wan")[0], "transformer_2": build("wan")[0], "scheduler": object(), "vae": None}
    pipe = SimpleNamespace(components=parts, transformer=parts["transformer"])
    with accelerate(pipe, strict=True) as accelerated:
        assert len(accelerated.swapped) == 12 and {"transformer.blocks.0", "transformer_2.blocks.1"} <= (
            accelerated.swapped.keys()
        )
    parts["transformer_2"] = other
    accelerated = accelerate(pipe)
    assert len(accelerated.swapped) == 6
    assert accelerated.left.keys() == {"transformer_2"} and "is not known" in accelerated.left["transformer_2"]


def test_a_copy_is_restored_alone(wan):
    model, call = wan
    truth = output(model, call)
    accelerated = accelerate(model, timestep_per="frame")
    twin = copy.deepcopy(model)
    restore(twin)
    assert torch.equal(output(twin, call), truth) and len(accelerated.swapped) == 7
    assert not twin._forward_pre_hooks and all("forward" not in block.__dict__ for block in twin.blocks)


def test_a_subclass_is_another_family(wan, monkeypatch):
    model, call = wan
    monkeypatch.setattr(register, "_families", dict(register._families))

    class Louder(type(model)):
        def forward(self, *arguments, **options):
            return (2 * super().forward(*arguments, **options)[0],)

    model.__class__ = Louder
    accelerated = accelerate(model)
    assert not accelerated.swapped and list(accelerated.left) == ["Louder"]
    register_family(dataclasses.replace(register._families["diffusers.WanTransformer3DModel"], model=Louder))
    truth = output(model, call)
    with accelerate(model, strict=True):
        assert (output(model, call) - truth).abs().max() <= 1e-5 * truth.abs().max()
    for again in (Louder, "diffusers.WanTransformer3DModel", "WanTransformer3DModel"):
        with pytest.raises(ValueError, match="^family: "):
            register_family(Family(again, lambda model, setting: None))


def test_angles_are_looked_at_in_every_new_table(build, run, assert_close):
    """The first call's tables have one angle for each pair of channels; the second call's do not."""
    model, call = build("cogvideox")
    changed = tuple(t.clone() for t in call["image_rotary_emb"])
    changed[0][:, 1::2] *= 0.5
    second = call | {"image_rotary_emb": changed}
    truth = run(model, second)
    with accelerate(model) as accelerated:
        run(model, call)
        assert not accelerated.passed
        assert_close(run(model, second), truth, 1e-5)
        assert "two angles" in accelerated.passed["transformer_blocks.0.attn1"]
