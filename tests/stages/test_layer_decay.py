"""Learning rates by depth: a factor from each block to the one before it."""

from phys4d.models.config import ModelConfig
from phys4d.models.world import create_model
from phys4d.stages.spec import by_depth


def test_a_block_learns_slower_than_the_one_behind_it() -> None:
    model = create_model(ModelConfig(width=32, layers=3, taps=(0, 2)), 5, 16, 16, seed=0).requires_grad_(False)
    backbone = model.backbone
    for block in backbone.blocks:
        block.attn1.requires_grad_(True)
    inside = {id(p) for block in backbone.blocks for p in block.parameters()}
    outside = next(p for p in backbone.transformer.parameters() if id(p) not in inside)
    outside.requires_grad_(True)
    (alike,) = by_depth("adapter", backbone, 1.0)
    trained = {id(p) for p in backbone.transformer.parameters() if p.requires_grad}
    assert {id(p) for p in alike["params"]} == trained and alike["lr_scale"] == 1.0
    groups = by_depth("adapter", backbone, 0.5)
    assert [group["lr_scale"] for group in groups] == [0.25, 0.5, 1.0]
    assert {group["name"] for group in groups} == {"adapter"}
    for group, block in zip(groups, backbone.blocks, strict=True):
        own = {id(p) for p in block.attn1.parameters()}
        assert own <= {id(p) for p in group["params"]}
    assert any(p is outside for p in groups[0]["params"])
    assert sum(len(group["params"]) for group in groups) == len(trained)
