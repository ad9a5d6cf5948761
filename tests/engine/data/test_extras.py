"""Optional arrays of a clip: shapes that share counts, dtypes and contents that are refused by name."""

import numpy as np
import pytest

from phys4d.engine.data.clip import blob, schema
from phys4d.engine.data.clip.extras import EXTRAS

SIZE = (5, 4, 6)
COUNTS = {"T": 5, "T-1": 4, "H": 4, "W": 6, "points": 3, "boxes": 2, "velocities": 2, "contacts": 7}
META = {"caption": "a ball", "intrinsics": [[[5, 0, 3], [0, 5, 2], [0, 0, 1]]] * 5}


def sound() -> dict[str, np.ndarray]:
    """Every optional array, filled with ones."""
    arrays = {
        name: np.ones([axis if isinstance(axis, int) else COUNTS[axis] for axis in rule.axes], rule.dtype)
        for name, rule in EXTRAS.items()
    }
    arrays["track_start"][:] = 0
    return arrays


def test_all_of_them_are_stored_and_read_within_their_errors() -> None:
    arrays = sound()
    schema.check_clip(arrays, META, SIZE)
    rng = np.random.default_rng(0)
    arrays["normal"] = rng.uniform(-1, 1, arrays["normal"].shape).astype(np.float32)
    data = blob.encode(arrays, blob.quantisation(arrays, schema.METRIC))
    found = blob.decode(data, check=lambda entries: schema.check_header(entries, SIZE))
    for name, rule in EXTRAS.items():
        assert found[name].dtype == rule.dtype
        assert np.abs(found[name].astype(float) - arrays[name]).max() <= max(rule.error, default=0), name
    assert blob.header(data)["normal"]["dtype"] == "uint16"


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("track_visible", np.ones((5, 4), bool), r"array 'track_visible': shape \[5, 4\], expected \[5, 3\]"),
        ("track_point", np.ones((5, 3), np.float32), r"array 'track_point': shape \[5, 3\], expected \[5, points, 3\]"),
        ("normal", np.ones((3, 5, 4, 6)), "array 'normal': dtype float64, expected float32"),
        ("box_instance", np.zeros(2, np.uint8), "array 'box_instance': 2 values are 0, which is no thing"),
        ("contact_time", np.full(7, np.nan), "array 'contact_time': 7 values are not finite"),
        ("track_start", np.full(3, 5, np.int32), "array 'track_start': 3 values are no frame of the clip"),
        ("track_start", np.full(3, 1, np.int32), "array 'track_start': 3 values are not the first frame in"),
    ],
)
def test_a_wrong_array_is_refused_by_name(name: str, array: np.ndarray, reason: str) -> None:
    arrays = sound() | {name: array}
    with pytest.raises(ValueError, match=reason):
        schema.check_clip(arrays, META, SIZE)
