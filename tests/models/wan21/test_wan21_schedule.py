"""The shift of Wan2.1 by the size of a clip, and the clips that each published model is for."""

import json
from pathlib import Path

import pytest

from phys4d.models.wan21.schedule import published_sampling, published_shift, shift_of


@pytest.mark.parametrize(
    ("size", "shift"),
    [
        ((81, 480, 832), 3.0), ((49, 832, 480), 3.0), ((81, 720, 1280), 5.0), ((33, 1280, 720), 5.0),
        ((81, 704, 1280), 4.5), ((480, 720, 832), 4.5), ((480, 832, 832), 4.5),
    ],
)  # fmt: skip
def test_the_shift_is_that_of_the_two_published_resolutions_lying_or_standing(
    size: tuple[int, int, int], shift: float
) -> None:
    assert shift_of(4.5, size) == shift


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wan2.1-t2v-1.3b", (81, 480, 832)), ("wan2.1-i2v-14b-480p", (81, 480, 832)),
        ("wan2.1-i2v-14b-720p", (81, 720, 1280)), (None, (81, 480, 832)),
    ],
)  # fmt: skip
def test_a_published_model_is_for_the_rows_of_its_name(name: str | None, size: tuple[int, int, int]) -> None:
    assert (found := published_sampling(name)).size == size and (found.solver, found.guidance) == ("unipc", 5.0)


@pytest.mark.parametrize(
    ("shift", "size"), [(3.0, (81, 480, 832)), (5.0, (81, 720, 1280)), (None, (81, 480, 832))]
)  # fmt: skip
def test_a_folder_is_for_the_rows_of_its_shift(shift: float | None, size: tuple[int, int, int], tmp_path: Path) -> None:
    """Without a scheduler its shift is 3."""
    if shift is not None:
        table = {
            "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
            "flow_shift": shift,
        }  # fmt: skip
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(table))
    assert published_shift(tmp_path) == (shift or 3.0) and published_sampling(tmp_path).size == size
