"""The videos of a folder, and the captions beside them."""

from dataclasses import dataclass
from pathlib import Path

from phys4d.engine.errors import UserError

VIDEOS = (".mp4", ".mov", ".webm", ".mkv")
CAPTION = ".txt"


@dataclass(frozen=True)
class Found:
    """videos and others (files that are neither a video nor the caption of one), each in the order of their names."""

    videos: list[Path]
    others: list[Path]


def find_videos(folder: Path) -> Found:
    """The files of a folder and of all folders in it, without hidden ones (names that begin with a dot).

    Raises UserError where the folder is none or holds no video.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file: name the folder that it is in")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() and not _hidden(path, folder))
    videos = [path for path in files if path.suffix.lower() in VIDEOS]
    if not videos:
        raise UserError(f"{folder}: holds no video: expected files that end in {', '.join(VIDEOS)}")
    known = {*videos, *(path for video in videos for path in caption_files(video))}
    return Found(videos, [path for path in files if path not in known])


def caption_files(video: Path) -> list[Path]:
    """Where the text of a video may be."""
    beside = video.with_suffix(CAPTION)
    return [beside, video.parent.parent / "labels" / beside.name] if video.parent.name == "videos" else [beside]


def read_caption(video: Path) -> str | None:
    """The text of a video in one line, or None where there is none: clip.txt beside clip.mp4, or labels/clip.txt for
    videos/clip.mp4.

    Raises ValueError for text that is not UTF-8.
    """
    file = next((path for path in caption_files(video) if path.is_file()), None)
    if file is None:
        return None
    try:
        return " ".join(file.read_bytes().decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"its caption {file.name} is not UTF-8 text (byte {error.start})") from None


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
