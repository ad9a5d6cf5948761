"""What a teacher is, and how the scenes that it was trained on are named."""

from typing import Any, Literal, Protocol

import numpy as np

from phys4d.engine.data.dataset import ClipDataset

DepthKind = Literal["metric", "affine_disparity"]


class Teacher(Protocol):
    """What both kinds share.

    scenes: the identities (`scene_identities`) of all clips that it was trained on; empty for a teacher that
    was trained on none of ours.
    """

    @property
    def scenes(self) -> frozenset[str]: ...

    def provenance(self) -> dict[str, Any]:
        """Name, settings and training data, for the record beside each label."""
        ...


class DepthTeacher(Teacher, Protocol):
    """Gives depth. depth_kind: "metric" (metres) or "affine_disparity" (1/z up to scale and shift)."""

    @property
    def depth_kind(self) -> DepthKind: ...

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> depth float32 [T, H, W] and valid bool [T, H, W]."""
        ...


class FlowTeacher(Teacher, Protocol):
    """Gives optical flow."""

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> flow float32 [2, T-1, H, W] (du, dv) in pixels from t to t + 1, and
        valid bool [T-1, H, W]: where a forward-backward check trusts it."""
        ...


def scene_identities(dataset: ClipDataset, index: int) -> frozenset[str]:
    """The names under which clip `index` is recognised in another dataset.

    Its pixels (the sha256 of the mp4 in the index), and where it comes from: "seed/key" for a simulated clip,
    whose json records the seed, else the key alone. Reads no truth.
    """
    row = dataset.row(index)
    seed = dataset.meta(index).get("provenance", {}).get("seed")
    origin = row["key"] if seed is None else f"{seed}/{row['key']}"
    return frozenset({f"sha256:{row['members']['mp4']['sha256']}", f"scene:{origin}"})


def all_identities(dataset: ClipDataset) -> frozenset[str]:
    """The identities of all clips of a dataset."""
    return frozenset().union(*(scene_identities(dataset, index) for index in range(len(dataset))))
