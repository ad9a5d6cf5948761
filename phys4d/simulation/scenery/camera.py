"""Pinhole cameras with OpenCV axes: x right, y down, z forward; pixel centres at i + 0.5."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera for every frame.

    intrinsics: float64 [T, 3, 3], pixels.
    camera_to_world: float64 [T, 4, 4], metres.
    height, width: image size, pixels.
    """

    intrinsics: np.ndarray
    camera_to_world: np.ndarray
    height: int
    width: int

    @staticmethod
    def static(frames: int, height: int, width: int, *, eye: np.ndarray, target: np.ndarray, fov: float) -> "Camera":
        """A camera that does not move.

        frames: T, number of frames.
        height, width: image size, pixels.
        eye, target: [3], world metres: position, and the point that it looks at.
        fov: degrees across the smaller image side.
        """
        intrinsics = pinhole(height, width, fov)
        pose = look_at(eye, target)
        return Camera(np.tile(intrinsics, (frames, 1, 1)), np.tile(pose, (frames, 1, 1)), height, width)

    def is_static(self) -> bool:
        """Whether the camera is the same in every frame."""
        return all(bool((each == each[0]).all()) for each in (self.intrinsics, self.camera_to_world))

    def origin(self, t: int) -> np.ndarray:
        """World position [3] of the camera in frame t."""
        return self.camera_to_world[t, :3, 3]

    def world_to_camera(self, t: int) -> np.ndarray:
        """Inverse of the camera's pose in frame t, [4, 4]; exact for a rigid pose."""
        rotation = self.camera_to_world[t, :3, :3].T
        inverse = np.eye(4)
        inverse[:3, :3] = rotation
        inverse[:3, 3] = -rotation @ self.camera_to_world[t, :3, 3]
        return inverse

    def project(self, t: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates [N, 2] and depth [N] (metres along the optical axis) of world points [N, 3] in frame t."""
        inverse = self.world_to_camera(t)
        local = points @ inverse[:3, :3].T + inverse[:3, 3]
        depth = local[:, 2]
        scale = np.array([self.intrinsics[t, 0, 0], self.intrinsics[t, 1, 1]])
        return local[:, :2] / depth[:, None] * scale + self.intrinsics[t, :2, 2], depth

    def directions(self, t: int, pixels: np.ndarray) -> np.ndarray:
        """World ray directions [N, 3] through pixel coordinates [N, 2] in frame t, scaled to a depth of 1 metre."""
        k = self.intrinsics[t]
        local = np.ones((len(pixels), 3))
        local[:, :2] = (pixels - k[:2, 2]) / np.array([k[0, 0], k[1, 1]])
        return local @ self.camera_to_world[t, :3, :3].T


def pinhole(height: int, width: int, fov: float) -> np.ndarray:
    """Intrinsics [3, 3] in pixels with `fov` degrees across the smaller image side and a central principal point."""
    focal = 0.5 * min(height, width) / np.tan(np.deg2rad(fov) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world pose [4, 4] at `eye` [3], looking at `target` [3] (world metres); world z points up in the image.
    """
    forward = np.asarray(target, float) - np.asarray(eye, float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose
