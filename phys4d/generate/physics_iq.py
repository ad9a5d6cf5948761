"""The clips that Physics-IQ asks for: from its start frames and descriptions to folders of five-second videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phys4d.engine.config import build
from phys4d.engine.environment import Place
from phys4d.engine.errors import UserError
from phys4d.engine.output import write_file
from phys4d.evaluate.physics_iq.layout import SECONDS, read_descriptions
from phys4d.generate.request import Request


@dataclass(frozen=True)
class Asked:
    """One clip of one run: what is generated, the folder of the clip, and the video that the benchmark reads."""

    request: Request
    folder: Path
    video: Path


def kept_frames(fps: float, frames: int) -> int:
    """Frames of five seconds; UserError where a clip has fewer, or the rate is no whole number.

    fps: of the videos. frames: of a clip of the model.
    """
    if not float(fps).is_integer():
        raise UserError(f"--fps {fps:g}: expected a whole number: the benchmark's real videos have 8, 16, 24 or 30")
    wanted = SECONDS * int(fps)
    if frames < wanted:
        raise UserError(f"--frames {frames}: are {frames / fps:.2f} s at {fps:g} a second: Physics-IQ reads {wanted}")
    return wanted


def asked_for(
    benchmark: Path, descriptions: Path | None, out: Path, runs: int, defaults: Mapping[str, Any], place: Place,
    *, image: bool,
) -> list[Asked]:  # fmt: skip
    """The clips of all runs that this process generates: of N processes, each takes every N-th.

    benchmark: its folder, with switch-frames. descriptions: file, if not the benchmark's own. out: gets the videos in
    run-1, run-2 ..., and the clips in clips/run-1 ... runs: how many videos of each view, by other seeds of the noise.
    defaults: of `Request`; "seed" is that of the first view of run 1. place: of this process. image: whether the model
    reads a first frame.

    Raises UserError where a start frame or the descriptions are missing.
    """
    rows = [row for row in read_descriptions(benchmark, descriptions) if row.take == 1]
    every = []
    for run in range(runs):
        for index, row in enumerate(rows):
            name = Path(row.generated).stem
            values = {**defaults, "name": name, "prompt": row.text, "seed": defaults["seed"] + run * len(rows) + index}
            if image:
                values["image"] = _start_frame(benchmark, row.id, row.view, row.scenario)
            request = build(Request, values, f"{benchmark}, {name}")
            here = f"run-{run + 1}"
            every.append(Asked(request, out / "clips" / here / name, out / here / f"{name}.mp4"))
    return every[place.rank :: place.world_size]


def _start_frame(benchmark: Path, known: str, view: str, scenario: str) -> Path:
    path = benchmark / "switch-frames" / f"{known}_switch-frames_anyFPS_{view}_{scenario}.jpg"
    if not path.is_file():
        raise UserError(f"{path}: is missing: download the benchmark's switch-frames")
    return path


def copy_videos(clips: Sequence[Asked]) -> None:
    """Puts the video of every clip where the benchmark reads it; UserError where it cannot be written."""
    for clip in clips:
        data = (clip.folder / "video.mp4").read_bytes()
        if not clip.video.is_file() or clip.video.read_bytes() != data:
            clip.video.parent.mkdir(parents=True, exist_ok=True)
            write_file(clip.video, data)
