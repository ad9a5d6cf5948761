"""Which files the benchmark has, and which of a folder's videos belong to which of its clips.

Source of the names: github.com/google-deepmind/physics-IQ-benchmark, README.md and physiq/run_physics_iq.py. A folder
of the benchmark holds `split-videos/testing/<fps>FPS` (or `testing-videos`, as its README says),
`video-masks/real/<fps>FPS`, `switch-frames`, and `descriptions.csv`, there or one folder above.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phys4d.engine.errors import UserError

VIEWS = ("perspective-left", "perspective-center", "perspective-right")
SECONDS = 5  # of every video that is compared
_REAL = re.compile(r"(\d{4})_testing-videos_(\d+)FPS_(perspective-\w+)_take-([12])_([^_]+)\.mp4")
_GENERATED = re.compile(r"(\d{4})_.*\.mp4")
_TESTING = ("testing", "testing-videos")


@dataclass(frozen=True)
class View:
    """A scenario as one camera saw it: the unit that is compared.

    scenario: name, without ".mp4", such as "trimmed-ball-ramp". view: one of VIEWS. ids: of take 1 and of take 2, such
    as "0001" and "0199". take_1, take_2: the real videos. masks: their videos of masks, None where the benchmark has
    none for this frame rate. kind: of physics, such as "Solid Mechanics"; "" where no description names it.
    """

    scenario: str
    view: str
    ids: tuple[str, str]
    take_1: Path
    take_2: Path
    masks: tuple[Path, Path] | None
    kind: str


@dataclass(frozen=True)
class Description:
    """A row of descriptions.csv: id, scenario, view, take, caption, kind of physics and name of the generated video."""

    id: str
    scenario: str
    view: str
    take: int
    text: str
    kind: str
    generated: str


def read_descriptions(benchmark: Path, file: Path | None = None) -> list[Description]:
    """The rows of `file`, or of the benchmark's own descriptions.csv, in its order.

    Raises UserError where there is none or a row is not of the benchmark.
    """
    places = [benchmark / "descriptions.csv", benchmark / "descriptions" / "descriptions.csv"]
    places += [benchmark.parent / "descriptions.csv", benchmark.parent / "descriptions" / "descriptions.csv"]
    path = file or next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"{benchmark}: no descriptions.csv there or beside it: name it with --descriptions")
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    found = []
    for number, row in enumerate(rows, 2):
        parts = re.fullmatch(r"(\d{4})_(perspective-\w+)_take-([12])_([^_]+)\.mp4", row.get("scenario") or "")
        if parts is None:
            raise UserError(
                f'{path}, line {number}: scenario: expected a name such as "0001_perspective-left_take-1_NAME.mp4", '
                f"got {row.get('scenario')!r}"
            )
        known, view, take, scenario = parts.groups()
        generated = row.get("generated_video_name") or f"{known}_{view}_{scenario}.mp4"
        text, kind = row.get("description") or "", row.get("category") or ""
        found.append(Description(known, scenario, view, int(take), text, kind, generated))
    if not found:
        raise UserError(f"{path}: no rows: expected the descriptions of the benchmark")
    return found


def views_of(benchmark: Path, fps: int, kinds: dict[str, str]) -> list[View]:
    """The scenarios of the benchmark at one frame rate, three views each, in the order of their file names.

    benchmark: its folder. fps: frames a second. kinds: scenario -> kind of physics, from the descriptions.

    Raises UserError where the folder has no videos at this rate, a take or a view lacks, or two have the same place.
    """
    folder = _folder_of(benchmark, fps)
    takes: dict[str, dict[tuple[str, int], tuple[str, Path]]] = {}
    for path in sorted(folder.glob("*.mp4")):
        parts = _REAL.fullmatch(path.name)
        if parts is None:
            raise UserError(f"{path}: expected a name such as 0001_testing-videos_{fps}FPS_{VIEWS[0]}_take-1_NAME.mp4")
        known, rate, view, take, scenario = parts.groups()
        if int(rate) != fps or view not in VIEWS:
            raise UserError(f"{path}: expected a video at {fps} frames a second of {', '.join(VIEWS)}")
        place = takes.setdefault(scenario, {})
        if (view, int(take)) in place:
            raise UserError(f"{path}: {place[view, int(take)][1].name} is of the same scenario, view and take")
        place[view, int(take)] = known, path
    if not takes:
        raise UserError(f"{folder}: no videos: expected those of the benchmark, at {fps} frames a second")
    return list(_complete(takes, benchmark / "video-masks" / "real" / f"{fps}FPS", fps, kinds))


def _complete(
    takes: dict[str, dict[tuple[str, int], tuple[str, Path]]], masks: Path, fps: int, kinds: dict[str, str]
) -> Iterator[View]:
    for scenario, place in takes.items():
        for view in VIEWS:
            for take in (1, 2):
                if (view, take) not in place:
                    raise UserError(f"{scenario}: no real video of {view}, take {take}, at {fps} frames a second")
            (first, take_1), (second, take_2) = place[view, 1], place[view, 2]
            yield View(
                scenario, view, (first, second), take_1, take_2,
                _masks_of(masks, (take_1, take_2)), kinds.get(scenario, ""),
            )  # fmt: skip


def _masks_of(folder: Path, takes: tuple[Path, Path]) -> tuple[Path, Path] | None:
    """The videos of masks of both takes; None where the folder is not there at all."""
    if not folder.is_dir():
        return None
    first, second = (folder / take.name.replace("testing-videos", "video-masks") for take in takes)
    for path in (first, second):
        if not path.is_file():
            raise UserError(f"{path}: is missing: download the masks again, or remove {folder} to have them made")
    return first, second


def _folder_of(benchmark: Path, fps: int) -> Path:
    for name in _TESTING:
        folder = benchmark / "split-videos" / name / f"{fps}FPS"
        if folder.is_dir():
            return folder
    rates = sorted({path.name for name in _TESTING for path in (benchmark / "split-videos" / name).glob("*FPS")})
    there = f"has {', '.join(rates)}" if rates else f"has no split-videos/{_TESTING[0]}"
    raise UserError(f"{benchmark}: {there}, and the videos have {fps} frames a second: download that rate, or make it")


def generated_videos(folder: Path, views: list[View]) -> dict[str, Path]:
    """Id of take 1 -> the generated video whose name begins with it. Nothing is renamed.

    Raises UserError that names the videos that are missing, or the first one that is twice or too many.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder: expected one of generated videos, 0001_NAME.mp4 and so on")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        parts = _GENERATED.fullmatch(path.name)
        if parts is None:
            if path.suffix.lower() == ".mp4":
                raise UserError(f"{path}: its name does not begin with an id of the benchmark, such as 0001_")
            continue
        if parts[1] in found:
            raise UserError(f"{path}: {found[parts[1]].name} has the id {parts[1]}, too: keep one of them")
        found[parts[1]] = path
    wanted = {view.ids[0]: view for view in views}
    if missing := sorted(wanted.keys() - found.keys()):
        first = wanted[missing[0]]
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{folder}: no video {missing[0]}_{first.view}_{first.scenario}.mp4 (the id is enough){more}: "
            f"{len(wanted)} are needed"
        )
    if extra := sorted(found.keys() - wanted.keys()):
        raise UserError(f"{found[extra[0]]}: no real video of a take 1 has the id {extra[0]}")
    return found
