"""What a teacher is: the protocols of depth and flow teachers, and the entry that a teacher's file defines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from phys4d.engine.config import Config

DepthKind = Literal["metric", "affine_disparity"]
Folder = Literal["scenes", "weights"]  # what a teacher may need; each is an option of `phys4d label`


class Teacher(Protocol):
    """What depth and flow teachers share.

    The constructor takes the teacher's settings and the folders that it needs. It checks both and does no work that
    takes more than seconds: it raises UserError for all that can be found wrong before training or loading.
    """

    @property
    def scenes(self) -> frozenset[str]:
        """Identities (`phys4d.teachers.scenes`) of all clips that the teacher is trained on; empty for a teacher that
        is trained on no clip of ours. Known before `prepare`."""
        ...

    @property
    def title(self) -> str:
        """The name in messages and in the record beside each label."""
        ...

    def prepare(self) -> None:
        """Trains the teacher or loads its weights. Called once, before the first label."""
        ...

    def provenance(self) -> dict[str, Any]:
        """The record beside each label, as JSON values: name (`title`), settings, training (on what), and
        weights_sha256 where there are weights. Called after `prepare`."""
        ...


class DepthTeacher(Teacher, Protocol):
    """A teacher for depth."""

    @property
    def depth_kind(self) -> DepthKind:
        """ "metric" (metres) or "affine_disparity" (1/z up to one positive scale and one shift for each clip, not
        negative; a teacher that labels frame by frame gives each frame its own). Known before `prepare`."""
        ...

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth of one clip. Several threads call this method of one object at the same time.

        video: uint8 [T, H, W, 3] RGB. Returns depth float32 [T, H, W], of the kind `depth_kind`, and valid bool
        [T, H, W].
        """
        ...


class FlowTeacher(Teacher, Protocol):
    """A teacher for optical flow."""

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flow of one clip. Several threads call this method of one object at the same time.

        video: uint8 [T, H, W, 3] RGB. Returns flow float32 [2, T-1, H, W], (du, dv) in pixels from t to t + 1, and
        valid bool [T-1, H, W]: where a forward-backward check confirms the flow.
        """
        ...


@runtime_checkable
class TrainedTeacher(Protocol):
    """What a teacher that `prepare` trains has besides: it is trained once, for all ranks and also after a kill."""

    def trained(self) -> bytes:
        """The weights as a safetensors buffer, with all that their training depended on in its metadata."""
        ...

    def restore(self, data: bytes) -> bool:
        """Takes up what `trained` returned in another process, in place of `prepare`. False, with nothing changed, for
        a teacher of other settings or scenes, or damaged data."""
        ...


@dataclass(frozen=True)
class TeacherSpec:
    """The entry `SPEC` of a teacher's file.

    config: the class of its settings; each is set by `phys4d label --set depth.NAME=VALUE` (or `flow.NAME=VALUE`).
    teacher: makes the teacher from its settings and, by name, one folder for each entry of `needs`.
    needs: folders that it cannot work without.
    """

    config: type[Config]
    teacher: Callable[..., Any]
    needs: tuple[Folder, ...] = ()


def default_device() -> torch.device:
    """The current accelerator (CUDA, or another type) with its index, which other threads would not know; else the CPU.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
