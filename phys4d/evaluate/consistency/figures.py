"""The figures of the 4D suite: names, units, directions and meanings, in the order of the table."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of the suite.

    name: key in the results. unit: of the values. higher_is_better: direction of improvement. meaning: definition.
    """

    name: str
    unit: str
    higher_is_better: bool
    meaning: str


FIGURES = (
    Figure("absrel", "share", False, "mean of |d - d*| / d*"),
    Figure("delta1", "share", True, "pixels with max(d / d*, d* / d) < 1.25"),
    Figure("rmse", "m", False, "root of the mean of (d - d*)^2"),
    Figure("absrel_scaled", "share", False, "absrel behind one factor a clip, median(d*) / median(d)"),
    Figure("delta1_scaled", "share", True, "delta1 behind the same factor"),
    Figure("rmse_scaled", "m", False, "rmse behind the same factor"),
    Figure("absrel_aligned", "share", False, "absrel behind scale and shift of disparity, least squares, a clip"),
    Figure("delta1_aligned", "share", True, "delta1 behind the same scale and shift"),
    Figure("rmse_aligned", "m", False, "rmse behind the same scale and shift"),
    Figure("epe", "px", False, "mean length of (du, dv) - (du*, dv*)"),
    Figure("epe_moving", "px", False, "the same where the surface moves in the world"),
    Figure("epe_static", "px", False, "the same where it does not"),
    Figure("outliers", "share", False, "flow off by more than 3 px and 5 % of its length"),
    Figure("outliers_moving", "share", False, "the same where the surface moves in the world"),
    Figure("outliers_static", "share", False, "the same where it does not"),
    Figure("scene_flow", "m", False, "mean length of the error of 3D motion"),
    Figure("scene_flow_moving", "m", False, "the same where the surface moves in the world"),
    Figure("scene_flow_static", "m", False, "the same where it does not"),
    Figure("warp_l1", "m", False, "predicted depth moved by predicted motion against predicted depth, visible pixels"),
    Figure("warp_l1_moving", "m", False, "the same where the surface moves in the world"),
    Figure("warp_l1_backward", "m", False, "the authors' form: backward, no mask, against true depth"),
    Figure("tae", "%", False, "temporal alignment error of aligned depth along the true motion"),
    Figure("chamfer_4d", "m", False, "Chamfer distance of whole clouds, mean over frames after the first"),
    Figure("chamfer_4d_aligned", "m", False, "the same behind the similarity of frame 0"),
    Figure("chamfer_3d_aligned", "m", False, "the same behind a similarity for each frame"),
    Figure("chamfer_motion", "m", False, "Chamfer distance of tracks, partners of frame 0 held"),
    Figure("chamfer_motion_aligned", "m", False, "the same behind the similarity of frame 0"),
    Figure("chamfer_motion_moving", "m", False, "chamfer_motion of tracks of objects that move"),
    Figure("average_jaccard", "share", True, "TAPVid-3D, tracks of all surfaces"),
    Figure("average_jaccard_moving", "share", True, "the same of objects that move"),
    Figure("points_within", "share", True, "TAPVid-3D, true points that tracks are within the thresholds of"),
    Figure("occlusion_accuracy", "share", True, "TAPVid-3D, points whose visibility is right"),
    Figure("trajectory_error", "share", False, "PISA, centroids of moving objects, of the image's diagonal"),
    Figure("mask_chamfer", "share", False, "PISA, Chamfer distance of masks of moving objects"),
    Figure("mask_iou", "share", True, "PISA, IoU of masks of moving objects"),
    Figure("area_error", "share", False, "visible area of moving objects against the true one, |A / A* - 1|"),
    Figure("centre_error", "m", False, "distance of bodies' centres from the true ones"),
    Figure("fall_error", "m/s2", False, "acceleration of freely falling bodies against that of gravity"),
    Figure("momentum_error", "share", False, "momentum that a pair gains or loses in a collision"),
    Figure("impulse_error", "share", False, "error of both bodies' change of momentum in a collision"),
    Figure("penetration", "m", False, "overlap of bodies with the floor and each other, beyond the true one"),
    Figure("bodies_followed", "share", True, "frames in which the centres of rigid bodies can be read"),
)

CURVES = ("absrel", "epe", "track_error", "mask_iou", "centre_error")
"""Figures that are also given frame by frame: drift with the horizon."""
