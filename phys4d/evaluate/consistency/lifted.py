"""A clip lifted to 4D: the tracks of the pixels of its first frame, and the masks of its objects."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phys4d.evaluate.consistency.masks import followed
from phys4d.evaluate.consistency.tracks import seen, simulated
from phys4d.kernels.geometry import lift_4d
from phys4d.kernels.geometry.unproject import into_world
from phys4d.simulation.mesh_sequence import Track


@dataclass(frozen=True)
class Lifted:
    """Depth and motion of one clip, and the tracks that follow them from each of the N = H * W pixels of frame 0.

    depth: [1, T, H, W], metres. motion: [1, 3, T-1, H, W]. intrinsics: [1, T, 3, 3], pixels. poses: [1, T, 4, 4], from
        camera to world; None if they are not known, where world axes are those of each frame's camera.
    points, world: [T, N, 3], metres, in axes of the camera and of the world. pixels: [T, N, 2]. valid: bool [T, N].
    instance: integer [T, H, W]; None if it is not known.
    """

    depth: Tensor
    motion: Tensor
    intrinsics: Tensor
    poses: Tensor | None
    points: Tensor
    world: Tensor
    pixels: Tensor
    valid: Tensor
    instance: Tensor | None

    @property
    def focal(self) -> Tensor:
        """Geometric mean of both focal lengths, [1, T], pixels."""
        return (self.intrinsics[..., 0, 0] * self.intrinsics[..., 1, 1]).sqrt()

    def grid(self) -> Tensor:
        """Numbers of the start pixels of a grid of at most 64 x 64."""
        height, width = self.depth.shape[-2:]
        stride = math.ceil(max(height, width) / 64)
        numbers = torch.arange(height * width).view(height, width)
        return numbers[stride // 2 :: stride, stride // 2 :: stride].flatten()

    def objects(self, names: Tensor, start: Tensor, *, segmented: bool) -> Tensor:
        """The masks of objects: bool [1, K, T, H, W].

        names: [K], instances. start: integer [N], instance of each pixel of frame 0.
        segmented: whether to take the clip's own `instance`, or where the tracks of the first frame's pixels are.
        """
        if segmented:
            assert self.instance is not None
            return torch.stack([self.instance == name for name in names])[None]
        size = self.depth.shape[-2:]
        return torch.stack([followed(self.pixels, self.valid, start == name, *size) for name in names])[None]


def lifted(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Lifted:
    """Lifts a clip: with its masks of what is valid and visible and its instances where it has them, else by its depth.

    arrays: depth [T, H, W] and motion [3, T-1, H, W], perhaps depth_valid, visible and instance.
    meta: json of the true clip: intrinsics, perhaps camera_to_world.
    """
    own = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
    intrinsics = torch.tensor(np.array(meta["intrinsics"]), dtype=torch.float32)[None]
    poses = meta.get("camera_to_world")
    poses = None if poses is None else torch.tensor(np.array(poses), dtype=torch.float32)[None]
    instance = own.get("instance")
    tracks = lift_4d(
        own["depth"], own["motion"], intrinsics, instance=instance, valid=own.get("depth_valid"),
        visible=own.get("visible"),
    )  # fmt: skip
    world = tracks.points if poses is None else into_world(tracks.points[:, :, None], poses)[:, :, 0]
    return Lifted(
        own["depth"], own["motion"], intrinsics, poses, tracks.points[0], world[0], tracks.pixels[0], tracks.valid[0],
        None if instance is None else instance[0],
    )  # fmt: skip


def movers(instance: Tensor, moving: Tensor) -> Tensor:
    """Instances that move at any time and are seen in frame 0: [K].

    instance: integer [T, H, W]. moving: bool [T-1, H, W].
    """
    names = instance[:-1][moving].unique()
    return names[(names > 0) & torch.isin(names, instance[0])]


def poses_of(meta: Mapping[str, Any]) -> dict[int, Track]:
    """The simulator's poses of rigid instances, from the json of a clip; {} where it has none."""
    return {
        int(name): Track(*(np.array(track[part], dtype=np.float64) for part in ("position", "quaternion")))
        for name, track in meta.get("tracks", {}).items()
    }


def true_tracks(true: Lifted, meta: Mapping[str, Any], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """True tracks from some pixels of frame 0, in axes of each frame's camera: float64 [T, N, 3], visible bool [T, N].

    Points of rigid instances and of what stands still are where the simulator's poses take them, also behind others.
    Where it states none (cloth, liquids, imported clips) points follow the true motion, and end where they are hidden.

    true: the true clip. meta: its json. chosen: [N], numbers of pixels.
    """
    points, valid = true.points[:, chosen].double(), true.valid[:, chosen]
    if true.poses is None or true.instance is None:
        return points, valid
    still = [entry["instance"] for entry in meta.get("objects", []) if not entry.get("dynamic", True)]
    start = true.instance[0].flatten()[chosen]
    exact, known = simulated(true.world[0, chosen], start, poses_of(meta), still)
    known &= valid[0]
    turn, place = true.poses[0, :, :3, :3].double(), true.poses[0, :, :3, 3].double()
    camera = (exact.expand(len(points), -1, -1) - place[:, None]) @ turn
    visible = seen(camera, start, true.intrinsics[0], true.depth[0], true.instance)
    return torch.where(known[:, None], camera, points), torch.where(known, visible, valid)
