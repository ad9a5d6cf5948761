"""How far decoding in tiles is from whole frames: a bound on the committed measurement, and on a small clip."""

import pytest

from phys4d.benchmarks import results, tiling_error


def test_the_committed_measurement_is_of_every_autoencoder_and_bounded() -> None:
    rows = results.committed("tiling-error.json")["rows"]
    cases = [f"{case} {'x'.join(map(str, size))}" for case, size in tiling_error.CASES.items()]
    assert [row["case"] for row in rows] == cases
    for row in rows:
        assert 0 < row["rms"] < row["most"]


@pytest.mark.slow
def test_tiles_of_cogvideox_are_off_by_no_more_than_was_measured() -> None:
    """At a size of three by three tiles; the same seed, so that only a change of the code changes it."""
    (committed,) = (row for row in results.committed("tiling-error.json")["rows"] if row["case"].startswith("cog"))
    found = tiling_error.measured("cogvideox-5b", (9, 480, 720))
    assert found["rms"] == pytest.approx(committed["rms"], rel=1e-2)
