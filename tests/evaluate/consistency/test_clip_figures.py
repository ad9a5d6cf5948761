"""All figures of a simulated clip: the truth is perfect, errors cost, and what is not stated is not needed."""

import math

import numpy as np
import pytest

from phys4d.evaluate.consistency.clip import clip_figures
from phys4d.evaluate.consistency.figures import CURVES, FIGURES
from tests.evaluate.consistency import plates

CASES = {"fall": plates.falling, "collision": plates.colliding}
# What is not 0 or 1 for the truth: pixels mix surfaces at silhouettes, and tracks end where they are hidden.
READ_OFF = {
    "warp_l1": 0.02, "warp_l1_moving": 0.4, "warp_l1_backward": 0.2, "tae": 2.0, "average_jaccard": 0.75,
    "points_within": 0.75, "occlusion_accuracy": 0.75,
}  # fmt: skip


@pytest.mark.parametrize("family", ["fall", "collision"])
def test_the_truth_is_perfect(family: str) -> None:
    arrays, meta = CASES[family]()
    found = clip_figures(arrays, arrays, meta)
    assert list(found.curves) == list(CURVES) and set(found.values) == {figure.name for figure in FIGURES}
    for figure in FIGURES:
        value = found.values[figure.name]
        if math.isnan(value):
            assert figure.name in {"fall": ("momentum_error", "impulse_error"), "collision": ("fall_error",)}[family]
        elif figure.name in READ_OFF:
            bound = READ_OFF[figure.name]
            assert value > bound if figure.higher_is_better else value < bound, (figure.name, value)
        else:
            assert value == pytest.approx(float(figure.higher_is_better), abs=1e-3), figure.name


def test_errors_that_grow_cost_more() -> None:
    """A plate that falls as it should, at half of gravity, and not at all."""
    arrays, meta = plates.falling()
    seen = []
    for share in (1.0, 0.5, 0.0):
        path = np.array(meta["tracks"]["2"]["position"])
        path[:, 2] = path[0, 2] + share * (path[:, 2] - path[0, 2])
        generated, _ = plates.clip([path], [2.0])
        seen.append(clip_figures({name: generated[name] for name in ("depth", "motion")}, arrays, meta).values)
    for name in (
        "absrel", "rmse", "epe_moving", "scene_flow_moving", "chamfer_4d", "chamfer_motion_moving",
        "trajectory_error", "mask_chamfer", "centre_error", "fall_error",
    ):  # fmt: skip
        values = [values[name] for values in seen]
        assert values[0] < values[1] < values[2], (name, values)
    for name in ("delta1", "average_jaccard_moving", "mask_iou"):
        values = [values[name] for values in seen]
        assert values[0] > values[1] > values[2], (name, values)
    assert [values["fall_error"] for values in seen] == pytest.approx([0, 9.81 / 2, 9.81], abs=0.01)
    assert seen[2]["epe_static"] == 0
    assert seen[2]["outliers_moving"] == pytest.approx(5 / 12, abs=0.01)  # of 0.41 (t + 0.5) px, those above 3


def test_plates_that_pass_through_each_other_keep_their_momentum_but_not_its_change() -> None:
    arrays, meta = plates.colliding()
    paths = [np.array(meta["tracks"][name]["position"]) for name in ("2", "3")]
    paths[0][:, 0] = -0.6 + 2 / plates.FPS * np.arange(plates.FRAMES)
    paths[1][:, 0] = paths[1][0, 0]
    through, _ = plates.clip([paths[1], paths[0]], [2.0, 1.0])  # the mover is drawn in front
    through["instance"] = np.choose(through["instance"], [0, 1, 3, 2]).astype(np.uint8)
    values = clip_figures({name: through[name] for name in ("depth", "motion", "instance")}, arrays, meta).values
    assert values["impulse_error"] == pytest.approx(1, abs=0.05) and values["momentum_error"] < 0.05
    assert values["penetration"] > 0.05


def test_aligned_figures_do_not_see_the_scale_of_the_world() -> None:
    arrays, meta = plates.colliding()
    scales = np.array([1, 1, 3], dtype=np.float32).reshape(3, 1, 1, 1)
    prediction = {"depth": 3 * arrays["depth"], "motion": scales * arrays["motion"]}
    own = {name: arrays[name] for name in ("depth", "motion")}
    found, same = (clip_figures(p, arrays, meta).values for p in (prediction, own))
    for name in ("absrel_scaled", "absrel_aligned", "tae", "average_jaccard", "epe", "mask_iou"):
        assert found[name] == pytest.approx(same[name], abs=1e-4), name
    for name in ("chamfer_4d_aligned", "chamfer_3d_aligned", "chamfer_motion_aligned"):
        assert found[name] < 0.01 < found[name.removesuffix("_aligned").replace("3d", "4d")], name
    for name in ("absrel", "scene_flow_moving", "chamfer_4d", "centre_error"):
        assert found[name] > same[name] + 0.01, name


def test_drift_is_by_frame() -> None:
    arrays, meta = plates.falling()
    growing = np.linspace(0, 0.12, 13, dtype=np.float32)[:, None, None]
    prediction = {"depth": arrays["depth"] * (1 + growing), "motion": arrays["motion"].copy()}
    prediction["motion"][0, 5] += 2
    curves = clip_figures(prediction, arrays, meta).curves
    assert all(len(curve) == 13 for curve in curves.values())
    assert curves["absrel"] == pytest.approx(growing.ravel().tolist(), abs=1e-6)
    assert math.isnan(curves["epe"][0])
    assert curves["epe"][1:] == pytest.approx([0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0], abs=1e-6)  # of the way to frame 6
    assert curves["mask_iou"][0] == 1 and curves["centre_error"][0] == pytest.approx(0, abs=1e-6)


def test_what_a_clip_does_not_state_is_not_needed() -> None:
    """Without poses, bodies and rate no physics is measured; without the simulator's tracks the motion gives them."""
    arrays, meta = plates.falling()
    full = clip_figures(arrays, arrays, meta).values
    found = clip_figures(arrays, arrays, {"intrinsics": meta["intrinsics"]})
    physics = ("centre_error", "fall_error", "momentum_error", "impulse_error", "penetration", "bodies_followed")
    assert all(math.isnan(found.values[name]) for name in physics)
    assert found.values["average_jaccard"] == 1 > full["average_jaccard"]
    others = {figure.name for figure in FIGURES} - {*physics} - {name for name in full if "jaccard" in name}
    for name in others - {"points_within", "occlusion_accuracy"}:
        assert found.values[name] == pytest.approx(full[name], abs=1e-5), name


def test_a_clip_in_which_nothing_moves_has_no_figures_of_what_moves() -> None:
    arrays, meta = plates.falling()
    still = {name: np.repeat(array[:1], len(array), axis=0) for name, array in arrays.items() if name != "motion"}
    still["motion"], still["moving"] = np.zeros_like(arrays["motion"]), np.zeros_like(arrays["moving"])
    found = clip_figures(still, still, {"intrinsics": meta["intrinsics"]})
    nothing = {name for name, value in found.values.items() if math.isnan(value)}
    assert {"epe_moving", "outliers_moving", "scene_flow_moving", "warp_l1_moving", "chamfer_motion_moving"} <= nothing
    assert {"average_jaccard_moving", "trajectory_error", "mask_chamfer", "mask_iou", "area_error"} <= nothing
    assert not nothing & {"absrel", "epe", "epe_static", "chamfer_4d", "chamfer_motion", "average_jaccard", "tae"}
    assert all(map(math.isnan, found.curves["mask_iou"]))


def test_depth_that_is_missing_counts_as_wrong() -> None:
    arrays, meta = plates.falling()
    gone = {"depth": np.zeros_like(arrays["depth"]), "motion": np.zeros_like(arrays["motion"])}
    found = clip_figures(gone, arrays, meta).values
    assert found["absrel"] == pytest.approx(1, abs=1e-2) and found["delta1"] == 0 and found["average_jaccard"] == 0
    assert found["bodies_followed"] == 0 and math.isnan(found["centre_error"]) and math.isnan(found["fall_error"])
    assert math.isnan(found["chamfer_4d"])
