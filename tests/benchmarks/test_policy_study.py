"""The study of the policy: its variants are real ones, its table has their times."""

import pytest

from phys4d.benchmarks import policy
from phys4d.benchmarks.policy import GRADIENT, GRADIENTS, VARIANTS, table, variant
from phys4d.demo import load_recipe
from phys4d.stages.reward_gradient import RewardGradientConfig


def test_each_variant_changes_what_it_says_and_nothing_else() -> None:
    recipe = load_recipe(policy.RECIPE, []).run.table("reinforce")
    assert recipe is not None
    gradient = RewardGradientConfig.model_validate(GRADIENT | {"data": "data"})
    for base, variants in ((recipe, VARIANTS), (gradient, GRADIENTS)):
        for changes in variants.values():
            before, after = (stage.model_dump() for stage in (base, variant(base, changes)))
            different = {key for key, value in leaves(before).items() if leaves(after)[key] != value}
            assert different == set(changes)


def test_the_table_has_the_time_of_runs_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.results, "origin", str)
    change = {"mean": 0.01, "standard_error": 0.002}
    row = {"reward": change, "psnr_moving": change, "chamfer_4d": change}
    figures = {"variants": {"recipe": row | {"seconds": 61.4}}, "provenance": {}}
    assert "| recipe | 61 | +0.0100 ± 0.0020 |" in table(figures)
    figures["variants"] = {"recipe": row}
    assert "| recipe | +0.0100 ± 0.0020 |" in table(figures)


def leaves(settings: dict) -> dict:
    """Values by dotted key, one level deep as the stage's tables are."""
    tables = {f"{t}.{k}": v for t, table in settings.items() if isinstance(table, dict) for k, v in table.items()}
    return tables | {key: value for key, value in settings.items() if not isinstance(value, dict)}


def test_a_variant_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="speed"):
        variant(load_recipe(policy.RECIPE, []).run.table("reinforce"), {"speed": 3})
