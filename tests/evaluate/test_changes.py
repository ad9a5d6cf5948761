"""What a stage changed, scene by scene."""

import math

import pytest

from phys4d.evaluate.changes import changes, paired


def test_the_change_is_that_of_the_scenes_both_measured() -> None:
    change = paired([1.0, 2.0, None, 4.0], [1.5, 3.5, 9.0, None])
    assert change is not None
    assert change.mean == pytest.approx(1.0)
    assert change.standard_error == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert change.scenes == 2


def test_lists_that_do_not_pair_have_no_change() -> None:
    assert paired([1.0, 2.0], [1.0]) is None
    assert paired([1.0, None], [2.0, 3.0]) is None


def test_a_row_from_each_stage_to_the_next_and_nothing_where_other_heads_read() -> None:
    """The rewards of `pretrain` and `finetune` are read by different heads: their difference says nothing of clips."""
    tables = {
        "pretrain": {"reader": "a", "scenes": {"epe": [2.0, 4.0], "reward": [0.0, 1.0], "chamfer_4d": [1.0, 2.0]}},
        "finetune": {"reader": "b", "scenes": {"epe": [1.0, 2.0], "reward": [1.0, 1.0]}},
        "reinforce": {"reader": "b", "scenes": {"epe": [1.0, 2.0], "reward": [2.0, 4.0]}},
    }
    rows = changes(tables)
    assert list(rows) == ["pretrain to finetune", "finetune to reinforce"]
    assert rows["pretrain to finetune"] == {"epe": -1.5, "epe_se": 0.5}
    assert rows["finetune to reinforce"] == {"epe": 0.0, "epe_se": 0.0, "reward": 2.0, "reward_se": 1.0}
