"""The families beyond the first five, whose tiny models stand in `tiny_models`: each in what people do to a model."""

import copy

import pytest
import torch

from phys4d.kernels.integrate.diffusers import accelerate, kit, registered_families, tiny_models
from phys4d.kernels.integrate.diffusers.situations import SITUATIONS

CACHES = frozenset({"first block cache", "magnitude cache"})  # which know some classes of blocks
ALL_CACHES = CACHES | {"faster cache", "attention broadcast"}
FUSED = frozenset({"fused projections"})
NONE: frozenset[str] = frozenset()
# name -> (attention modules and blocks that are swapped, situations that diffusers does not have, or breaks, for it)
FAMILIES = {
    "wan-vace": (9, NONE),
    "wan-animate": (7, CACHES),
    "skyreels-v2": (6, CACHES),
    "skyreels-v2-forcing": (6, CACHES),
    "chronoedit": (6, CACHES),
    "hunyuan-framepack": (5, FUSED),
    "hunyuan-1.5": (5, CACHES),
    "consisid": (2, ALL_CACHES),
    "mochi": (4, FUSED),
    "allegro": (6, CACHES | FUSED),
    "easyanimate": (4, ALL_CACHES | FUSED),
    "ltx-2": (12, CACHES | FUSED),
    "sana-video": (4, ALL_CACHES),
    "cosmos": (6, ALL_CACHES | FUSED),
    "kandinsky-5": (8, FUSED | {"first block cache"}),
}
# Kandinsky 5 rounds queries and keys to bfloat16 in float32 too, where a last bit may become 2^-8.
TOLERANCES = {"kandinsky-5": 5e-3}
QUICK = ("plain", "hooks on norms")


@pytest.fixture(scope="module")
def models(build):
    """name -> (model, arguments), which the kit copies."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = build(name)
        return made[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "situation", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SITUATIONS]
)
def test_a_situation(situation, name, models):
    found = kit.check_family(*models(name), situations=[situation], tolerance=TOLERANCES.get(name, 1e-5))
    assert found.keys() == {f"{situation}, before", f"{situation}, after"}
    assert any(found.values()) == (situation in FAMILIES[name][1])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_swapped(name, models):
    """All that the table says, and nothing is left or passed on without being named."""
    model, call = copy.deepcopy(models(name))
    accelerated = accelerate(model)
    with torch.no_grad():
        model(**call)
    assert len(accelerated.swapped) == FAMILIES[name][0]
    assert not accelerated.passed
    assert set(accelerated.left.values()) == LEFT.get(name, set())


@pytest.mark.parametrize("name", ["hunyuan-1.5", "mochi", "easyanimate", "hunyuan-framepack"])
def test_the_text_behind_the_first_block_is_the_models_own(name, models):
    """Padded words too, which the model's output does not show."""
    model, call = copy.deepcopy(models(name))
    texts = []
    model.transformer_blocks[0].register_forward_hook(lambda module, arguments, outs: texts.append(outs[1]))
    with torch.no_grad():
        model(**call)
        with accelerate(model, parts=("attention",)):
            model(**call)
        with accelerate(model):
            model(**call)
    for found in texts[1:]:
        torch.testing.assert_close(found, texts[0], rtol=0, atol=1e-5 * float(texts[0].abs().max()))


LEFT = {"sana-video": {"its attention is linear, without a softmax"}}


def test_every_example_is_tested():
    first = {"wan", "wan-image", "cogvideox", "cogvideox-without-rope", "latte", "ltx", "hunyuan"}
    assert first | FAMILIES.keys() == {name for family in registered_families() for name in family.examples}
    assert FAMILIES.keys() <= tiny_models.MODELS.keys()
