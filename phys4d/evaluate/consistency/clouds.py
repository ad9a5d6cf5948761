"""Chamfer distances of lifted clips: of surfaces (3D, 4D), and of tracks (motion), aligned in closed form or not.

All are in metres and follow the definitions of facebookresearch/actionmesh (`actionbench/`): the symmetric sum of mean
nearest distances, averaged over frames. There, alignment is an iterated search of a transform with three scales; here
the pixels correspond, so that the similarity of least squares is known in closed form (Umeyama 1991).

All functions return one value for each clip, float [B], NaN for a clip with nothing to compare.
"""

import math
from typing import Literal

from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean
from phys4d.kernels.geometry import Alignment, chamfer, chamfer_motion, pack, umeyama, unproject

Align = Literal["none", "first", "each"]


def cloud_chamfer_4d(
    depth: Tensor,
    truth: Tensor,
    truth_valid: Tensor,
    intrinsics: Tensor,
    *,
    camera_to_world: Tensor | None = None,
    align: Align = "none",
    pixel_stride: int = 2,
    frame_stride: int = 2,
) -> Tensor:
    """Chamfer distance in metres of whole lifted point clouds, averaged over the frames after the first.

    align: "none" compares metres, so that CD-3D and CD-4D are one; "first" is CD-4D, behind the similarity that brings
        frame 0 to the truth; "each" is CD-3D, behind a similarity for every frame. The clouds are almost insensitive to
        motion.
    depth, truth: [B, T, H, W], metres.
    truth_valid: bool [B, T, H, W].
    intrinsics: [B, T, 3, 3], pixels.
    camera_to_world: [B, T, 4, 4]; needed for "first" under a camera that moves.
    pixel_stride: step between used pixels, along both axes.
    frame_stride: step between used frames.
    """
    take = (slice(None), slice(0 if align == "first" else frame_stride, None, frame_stride))
    poses = None if camera_to_world is None else camera_to_world[take]
    clouds, masks = [], []
    for values, mask in ((depth, depth > 0), (truth.to(depth.dtype), truth_valid)):
        points = unproject(values[take], intrinsics[take], poses)
        clouds.append(points[:, :, ::pixel_stride, ::pixel_stride].flatten(2, 3))
        masks.append(mask[take][:, :, ::pixel_stride, ::pixel_stride].flatten(2))
    if align == "first":
        clouds[0] = umeyama(clouds[0][:, 0], clouds[1][:, 0], masks[0][:, 0] & masks[1][:, 0], scaled=True)(clouds[0])
        clouds, masks = [cloud[:, 1:] for cloud in clouds], [mask[:, 1:] for mask in masks]
    flat, flat_masks = [cloud.flatten(0, 1) for cloud in clouds], [mask.flatten(0, 1) for mask in masks]
    if align == "each":
        flat[0] = umeyama(flat[0], flat[1], flat_masks[0] & flat_masks[1], scaled=True)(flat[0])
    (x, x_lengths), (y, y_lengths) = map(pack, flat, flat_masks)
    per_frame = chamfer(x, y, x_lengths=x_lengths, y_lengths=y_lengths).view(masks[0].shape[:2])
    both = ((x_lengths > 0) & (y_lengths > 0)).view_as(per_frame)
    return masked_mean(per_frame[..., None, None], both[..., None, None])


def track_chamfer(
    points: Tensor, valid: Tensor, truth: Tensor, truth_valid: Tensor, *, aligned: bool = False
) -> Tensor:
    """Motion Chamfer distance in metres (CD-M): nearest neighbours are found in frame 0 and kept in every frame.

    Only tracks that last from the first frame to the last one count, on either side.

    points, truth: [B, T, N, 3], metres, tracks of the same start pixels.
    valid, truth_valid: bool [B, T, N].
    aligned: first brings the tracks to the truth by the similarity of their start points.
    """
    found = []
    lasting = valid.all(dim=1), truth_valid.all(dim=1)
    for x, y, kept, kept_y in zip(points, truth.to(points.dtype), *lasting, strict=True):
        if not kept.any() or not kept_y.any():
            found.append(math.nan)
            continue
        if aligned:
            x = similarity(x, y, kept & kept_y)(x[None])[0]
        found.append(chamfer_motion(x[None, :, kept], y[None, :, kept_y]).item())
    return points.new_tensor(found)


def similarity(points: Tensor, truth: Tensor, both: Tensor) -> Alignment:
    """The similarity from points [T, N, 3] to truth [T, N, 3] in frame 0, where `both` [N]."""
    return umeyama(points[None, 0], truth[None, 0], both[None], scaled=True)
