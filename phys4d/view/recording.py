"""One clip as a recording for the rerun viewer: pictures, depth and motion of a posed camera, frame by frame."""

from pathlib import Path

import numpy as np

from phys4d.engine.errors import UserError
from phys4d.report.colours import flow
from phys4d.report.ranges import true_ranges
from phys4d.view.sources import Viewed


def require_rerun() -> None:
    """Raises UserError where rerun is not installed."""
    try:
        import rerun  # noqa: F401
    except ImportError as error:
        raise UserError(f'--rerun: needs rerun ({error}): pip install "phys4d[view]"') from None


def write_recording(clip: Viewed, path: Path) -> None:
    """Writes a .rrd file, which `rerun PATH` opens.

    Entities: camera (pinhole and pose), camera/rgb, camera/depth (metres, which rerun lifts to points) and
    camera/motion (colours of the flow wheel), on the timelines frame and time.

    clip: of `sources`. path: of the file.

    Raises UserError for a clip without intrinsics, and where rerun is not installed.
    """
    require_rerun()
    import rerun as rr

    shown, arrays = clip.shown, clip.arrays
    if shown.intrinsics is None:
        raise UserError(f"{shown.key}: states no intrinsics, by which rerun places its camera")
    frames, height, width = arrays["video"].shape[:3]
    poses = np.tile(np.eye(4), (frames, 1, 1)) if shown.camera_to_world is None else shown.camera_to_world
    recording = rr.RecordingStream("phys4d view", recording_id=shown.key)
    recording.save(path)
    if "motion" in arrays:
        rim = true_ranges(arrays.get("depth", np.zeros((1, 1, 1))), arrays["motion"]).motion
    for t in range(frames):
        recording.set_time("frame", sequence=t)
        recording.set_time("time", duration=t / shown.fps)
        pinhole = rr.Pinhole(image_from_camera=shown.intrinsics[t], resolution=[width, height])
        recording.log("camera", pinhole, rr.Transform3D(translation=poses[t, :3, 3], mat3x3=poses[t, :3, :3]))
        recording.log("camera/rgb", rr.Image(arrays["video"][t]))
        if "depth" in arrays:
            recording.log("camera/depth", rr.DepthImage(arrays["depth"][t], meter=1.0))
        if "motion" in arrays and t < frames - 1:
            recording.log("camera/motion", rr.Image(flow(arrays["motion"][:, t], rim)))
    recording.flush()
