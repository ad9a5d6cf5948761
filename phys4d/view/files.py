"""One clip as files that other programs open: a video of its panels, and a point cloud for each frame."""

from pathlib import Path

import numpy as np

from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.errors import UserError
from phys4d.engine.output import check_folder, write_file
from phys4d.generate.panels import side_by_side
from phys4d.generate.points import lifted, ply
from phys4d.view.sources import Viewed


def write_files(clip: Viewed, out: Path, points: int) -> int:
    """Writes out/side-by-side.mp4, and out/points/0000.ply and so on; returns the number of point clouds.

    clip: with depth in metres and motion. out: a folder. points: most points of a frame, 0: none are written.

    Points are in metres, in the axes of the camera of their frame. Raises UserError for a clip without depth in metres,
    motion, or intrinsics where points are asked for.
    """
    arrays, shown = clip.arrays, clip.shown
    if missing := [name for name in ("depth", "motion") if name not in arrays]:
        raise UserError(f"{shown.key}: has no {' and no '.join(missing)} in metres and pixels: none is shown")
    if points and shown.intrinsics is None:
        raise UserError(f"{shown.key}: states no intrinsics, by which depth is lifted: set --points 0")
    check_folder(out)
    if points:
        check_folder(out / "points")
    seen = np.where(arrays["depth"] > 0, arrays["depth"], np.nan)
    panels = side_by_side(arrays["video"], seen, arrays["motion"])
    write_file(out / "side-by-side.mp4", encode_mp4(panels, shown.fps, pixel_format="yuv420p"))
    if not points:
        return 0
    assert shown.intrinsics is not None
    clouds = 0
    for t, (video, depth) in enumerate(zip(arrays["video"], arrays["depth"], strict=True)):
        [(found, colours)] = lifted(video[None], depth[None], shown.intrinsics[t], points)
        write_file(out / "points" / f"{t:04d}.ply", ply(found, colours))
        clouds += 1
    return clouds
