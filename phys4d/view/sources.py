"""What can be viewed: a dataset, clips that `phys4d generate` wrote, and a run, each as a list of clips."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from phys4d.engine import json_text
from phys4d.engine.data.clip import blob, schema
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders.interface import Request, decode
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.errors import UserError
from phys4d.evaluate.compare import HIGHER, Results
from phys4d.report.clip_data import Row, Shown, clip_data
from phys4d.report.pictures import poster
from phys4d.report.ranges import Ranges, compared_ranges, true_ranges

CARD, TRUTH = "clip.json", "clip.truth"  # of a clip that `phys4d generate` wrote
SIDE = 320  # pixels of the larger side of a clip in the browser
_ARRAYS = ("depth", "motion")


@dataclass(frozen=True)
class Viewed:
    """One clip: its names and camera, and its arrays: video, and depth in metres and motion where it has them."""

    shown: Shown
    arrays: dict[str, np.ndarray]


class Source(Protocol):
    """Clips to view.

    title: of the page. figures: what they are sorted by, as the page's index has it.
    """

    title: str
    figures: list[dict[str, Any]]

    def entries(self) -> list[dict[str, Any]]:
        """The clips of the page's index, without posters."""

    def data(self, number: int) -> dict[str, Any]:
        """The JSON content of a clip. Raises UserError if it cannot be read."""

    def poster(self, number: int) -> str | None:
        """A small picture of a clip as a data: URL."""


def open_source(
    path: Path, truth: Path | None, results: Results | None
) -> "DatasetSource | FolderSource | RunSource":
    """A dataset, a clip folder or a folder of them, or a run.

    path: one of them. truth: dataset with the truth of clip folders, by key. results: figures of the dataset's clips.

    Raises UserError for anything else.
    """
    if (path / "index.parquet").is_file():
        _without(truth, "--data", "clip folders")
        return DatasetSource(path, results)
    _without(results, "--results", "a dataset")
    if (path / CARD).is_file() or any(path.glob(f"*/{CARD}")):
        return FolderSource(path, truth)
    _without(truth, "--data", "clip folders")
    if (path / "summary.json").is_file():
        return RunSource(path)
    raise UserError(
        f"{path}: is none of a dataset (index.parquet), a clip or a folder of clips ({CARD}) and a finished run "
        "(summary.json)"
    )


def _without(given: object, option: str, of: str) -> None:
    if given is not None:
        raise UserError(f"{option}: belongs to {of}")


class DatasetSource:
    """The clips of a dataset; their figures are those of a file of results, where one is given."""

    def __init__(self, folder: Path, results: Results | None) -> None:
        self.title, self.dataset, self.results = folder.resolve().name, ClipDataset(folder), results
        self.figures = [] if results is None else figures_of(results)
        known = set(self.dataset.keys().to_pylist())
        if results is not None and not any(known & clips.keys() for clips in results.figures.values()):
            raise UserError(f"--results: names no clip of {folder} (its first is {min(known, default='none')})")

    def entries(self) -> list[dict[str, Any]]:
        """See `Source`."""
        texts = self.dataset.texts(("caption", "category", "family")).to_pylist()
        figures = {} if self.results is None else self.results.figures
        return [
            {"title": key, **text, "values": {name: of[key] for name, of in figures.items() if key in of}}
            for key, text in zip(self.dataset.keys().to_pylist(), texts, strict=True)
        ]

    def number(self, key: str) -> int:
        """The number of the clip of this key. Raises UserError if there is none."""
        keys = self.dataset.keys().to_pylist()
        if key not in keys:
            raise UserError(f"{self.dataset.folder}: no clip {key!r}: its first is {keys[0] if keys else 'none'}")
        return int(keys.index(key))

    def viewed(self, number: int) -> Viewed:
        """One clip. Raises UserError if it cannot be read."""
        sample = self.dataset[number]
        return _viewed(sample.key, sample.meta, sample.video, sample.arrays)

    def data(self, number: int) -> dict[str, Any]:
        """See `Source`."""
        clip = self.viewed(number)
        row = Row("clip", {"generated": clip.arrays})
        return clip_data(clip.shown, [row], _ranges(clip.arrays), SIDE)

    def poster(self, number: int) -> str | None:
        """See `Source`."""
        video = self.viewed(number).arrays["video"]
        return poster([video[0], video[-1]])


class FolderSource:
    """Clips that `phys4d generate` wrote, beside their truth where its dataset is given."""

    def __init__(self, folder: Path, truth: Path | None) -> None:
        from phys4d.evaluate.consistency.predictions import clip_folders

        self.title, self.figures = folder.resolve().name, list[dict[str, Any]]()
        self.folders = clip_folders(folder)
        self.keys = list(self.folders)
        self.truth = None if truth is None else DatasetSource(truth, None)
        for key in self.keys if self.truth else ():
            assert self.truth is not None
            self.truth.number(key)

    def entries(self) -> list[dict[str, Any]]:
        """See `Source`."""
        cards = {key: _card(self.folders[key]) for key in self.keys}
        return [
            {"title": key, "caption": str(card.get("caption", "")), "category": "", "family": "", "values": {}}
            for key, card in cards.items()
        ]

    def viewed(self, number: int) -> Viewed:
        """One clip. Raises UserError if it cannot be read."""
        folder = self.folders[self.keys[number]]
        meta = _card(folder)
        return _viewed(self.keys[number], meta, _video(folder / "video.mp4", meta), _arrays(folder / TRUTH, meta))

    def data(self, number: int) -> dict[str, Any]:
        """See `Source`."""
        clip = self.viewed(number)
        made = Row(self.title, {"generated": clip.arrays})
        if self.truth is None:
            return clip_data(clip.shown, [made], _ranges(clip.arrays), SIDE)
        true = self.truth.viewed(self.truth.number(self.keys[number]))
        sizes = [one.arrays["video"].shape[:3] for one in (clip, true)]
        if sizes[0] != sizes[1]:
            raise UserError(f"{self.keys[number]}: {sizes[0]} frames, height, width; its truth has {sizes[1]}")
        if missing := [name for name in _ARRAYS if name not in clip.arrays or name not in true.arrays]:
            raise UserError(f"{self.keys[number]}: {', '.join(missing)} of the clip or of its truth is missing")
        rows = [Row("truth", {"generated": true.arrays}), made]
        return clip_data(true.shown, rows, compared_ranges(true.arrays, [clip.arrays]), SIDE)

    def poster(self, number: int) -> str | None:
        """See `Source`."""
        video = self.viewed(number).arrays["video"]
        return poster([video[0], video[-1]])


class RunSource:
    """The clips that the evaluation of a run kept, with every stage, as its report has them."""

    def __init__(self, folder: Path) -> None:
        from phys4d.report.artefacts import read_artefacts  # with the registry of stages, which takes seconds to import
        from phys4d.report.gallery import FIGURES, run_clips

        self.title, self.figures = folder.resolve().name, FIGURES
        self._clips = list(run_clips(read_artefacts(folder)))
        if not self._clips:
            raise UserError(f"{folder}: has no evaluation of which clips could be shown: evaluate the run")

    def entries(self) -> list[dict[str, Any]]:
        """See `Source`."""
        return [{name: value for name, value in entry.items() if name != "poster"} for entry, _ in self._clips]

    def data(self, number: int) -> dict[str, Any]:
        """See `Source`."""
        return self._clips[number][1]

    def poster(self, number: int) -> str | None:
        """See `Source`."""
        return str(self._clips[number][0]["poster"])


def figures_of(results: Results) -> list[dict[str, Any]]:
    """The figures of results, as the page's index has them."""
    return [{"name": name, "unit": "", "higher": HIGHER[name], "decimals": 4} for name in results.figures]


def _viewed(key: str, meta: Mapping[str, Any], video: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Viewed:
    """A clip with what of its arrays can be shown: depth in metres only, motion of at least two frames."""
    found = {"video": video}
    if "depth" in arrays and schema.depth_kind(meta) == schema.METRIC:
        known = arrays.get("depth_valid", np.ones(arrays["depth"].shape, dtype=bool))
        found["depth"] = np.where(known, arrays["depth"], 0).astype(np.float32)
    if "motion" in arrays and len(video) > 1:
        found["motion"] = np.asarray(arrays["motion"], dtype=np.float32)
    camera = {name: np.array(meta[name], np.float64) for name in ("intrinsics", "camera_to_world") if name in meta}
    shown = Shown(
        key, str(meta.get("caption", "")), float(meta.get("fps", 24.0)), camera.get("intrinsics"),
        camera.get("camera_to_world"), str(meta.get("category", "")), str(meta.get("family", "")),
    )  # fmt: skip
    return Viewed(shown, found)


def _ranges(arrays: Mapping[str, np.ndarray]) -> Ranges:
    depth, motion = arrays.get("depth", np.zeros((1, 1, 1))), arrays.get("motion", np.zeros((2, 1, 1, 1)))
    return true_ranges(depth, motion)


def _card(folder: Path) -> dict[str, Any]:
    try:
        meta = json_text.loads(json_text.read(folder / CARD))
        for name in ("frames", "height", "width"):
            int(meta[name])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{folder / CARD}: is damaged ({error}): generate {folder} again") from None
    return dict(meta)


def _video(path: Path, meta: Mapping[str, Any]) -> np.ndarray:
    try:
        size = (int(meta["height"]), int(meta["width"]))
        return np.asarray(decode(PyAVDecoder(), Request(path.read_bytes(), int(meta["frames"]), stored=size)))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}): generate its clip again") from None


def _arrays(path: Path, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """depth and motion, without those of a model that reads none."""
    if not path.is_file():
        return {}
    size = (int(meta["frames"]), int(meta["height"]), int(meta["width"]))
    try:
        data = path.read_bytes()
        names = [name for name in (*_ARRAYS, "depth_valid") if name in blob.header(data)]
        return blob.decode(data, names, lambda header: schema.check_header(header, size))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {error}: generate its clip again") from None
