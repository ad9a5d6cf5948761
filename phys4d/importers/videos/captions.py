"""Captions of videos in one file for all of them, in the layouts that trainers of video models take.

A table (csv, jsonl, json) has a row for each video; two lists have a line for each. Docs: docs/your-own-clips.md.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phys4d.engine import json_text
from phys4d.engine.errors import UserError
from phys4d.engine.faults import reading
from phys4d.engine.limits import CAPTIONS_BYTES

TABLES = tuple(f"{name}.{kind}" for name in ("metadata", "captions") for kind in ("csv", "jsonl", "json"))
VIDEO_LISTS, CAPTION_LISTS = ("videos.txt", "video.txt"), ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
VIDEO_COLUMNS = ("file_name", "video", "path", "video_path", "video_file", "filename", "file")
CAPTION_COLUMNS = ("caption", "text", "prompt")
_KEPT = ("category", "family")  # columns that the json of a clip has, too

Row = Mapping[str, Any]


@dataclass
class Listed:
    """What lists say. texts: caption, category and family by absolute path of a video; None where there is no list, so
    that every video counts. files: the lists. lines: one for each row that names no video of the folder."""

    texts: dict[str, dict[str, str]] | None = None
    files: set[Path] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)

    def of(self, video: Path) -> dict[str, str] | None:
        """The texts of a video; None for one that is not listed although there are lists."""
        return {} if self.texts is None else self.texts.get(os.path.abspath(video))


def read_lists(
    folder: Path, videos: Sequence[Path], others: Sequence[Path], given: Path | None = None, *,
    video_column: str | None = None, caption_column: str | None = None,
) -> Listed:  # fmt: skip
    """Reads the captions of a folder's videos.

    folder: of the videos.
    videos, others: files in it, as `files.find_videos` finds them.
    given: a table, or a list of captions beside a list of videos, that is read in place of those in the folder; paths
        in it are relative to the folder. Without it, every table and pair of lists in the folder is read, and paths are
        relative to the folder that it is in.
    video_column, caption_column: of a table; None: the one of `VIDEO_COLUMNS` and `CAPTION_COLUMNS` that it has.

    Raises UserError for a file that cannot be read or has no such columns, two in one folder, or a video listed twice.
    """
    listed = Listed()
    known = {os.path.abspath(video) for video in videos}
    for path in [given] if given is not None else _lists_in(videos, others):
        base = folder if given is not None else path.parent
        listed.texts = {} if listed.texts is None else listed.texts
        listed.files.add(path)
        rows = _pairs(path, listed) if path.suffix == ".txt" else _rows(path)
        columns: tuple[str, str] | None = ("video", "caption") if path.suffix == ".txt" else None
        for number, row in enumerate(rows, start=1):
            where = f"{path}: row {number}"
            columns = columns or _columns(where, row, video_column, caption_column)
            name, texts = _text(where, row, columns[0]), {"caption": _text(where, row, columns[1])}
            video = os.path.abspath(base / name)
            if video not in known:
                listed.lines.append(f"{where}: {name!r:.200} is no video in {folder}")
            elif video in listed.texts:
                raise UserError(f"{where}: {name}: is listed twice: each video has one caption")
            else:
                texts |= {kept: value for kept in _KEPT if isinstance(value := row.get(kept), str) and value}
                listed.texts[video] = {key: " ".join(value.split()) for key, value in texts.items()}
    return listed


def _lists_in(videos: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """The tables, and the captions of each pair of lists. Raises UserError for two in one folder."""
    beside = {video.with_suffix(".txt") for video in videos}
    files = [path for path in others if path not in beside]
    tables = [path for path in files if path.name in TABLES]
    for videos_list in (path for path in files if path.name in VIDEO_LISTS):
        pairs = [path for path in files if path.parent == videos_list.parent and path.name in CAPTION_LISTS]
        if len(pairs) != 1:
            what = " and ".join(path.name for path in pairs) or "no list of captions"
            raise UserError(f"{videos_list}: beside it is {what}: expected one of {', '.join(CAPTION_LISTS)}")
        tables += pairs
    for path in tables:
        if others_there := [other for other in tables if other.parent == path.parent and other != path]:
            raise UserError(f"{path}: beside it is {others_there[0].name}: name one of the two with --captions")
    return sorted(tables)


def _pairs(captions: Path, listed: Listed) -> Iterator[Row]:
    """A row for each line of a list of captions and the list of videos beside it."""
    places = [captions.parent / name for name in VIDEO_LISTS if (captions.parent / name).is_file()]
    if len(places) != 1:
        raise UserError(f"{captions}: expected one list of videos beside it, {' or '.join(VIDEO_LISTS)}")
    listed.files.add(places[0])
    names, texts = (_read(path).split("\n") for path in (places[0], captions))
    names, texts = ([line for line in lines if line.strip()] for lines in (names, texts))
    if len(names) != len(texts):
        raise UserError(f"{captions}: has {len(texts)} lines, {places[0].name} has {len(names)}: one caption a video")
    for name, text in zip(names, texts, strict=True):
        yield {"video": name.strip(), "caption": text}


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a table."""
    if path.suffix not in (".csv", ".json", ".jsonl"):
        raise UserError(f"{path}: expected a .csv, .jsonl or .json, or a list of captions in a .txt")
    text = _read(path)
    if path.suffix == ".csv":
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
        except csv.Error as error:
            raise UserError(f"{path}: cannot be read as csv: {error}") from None
        return
    try:
        if path.suffix == ".jsonl":
            documents = [json_text.loads(line.encode()) for line in text.split("\n") if line.strip()]
        else:
            documents = _documents(json_text.loads(text.encode(), CAPTIONS_BYTES))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for number, row in enumerate(documents, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number}: expected an object with a video and a caption")
        yield row


def _documents(value: Any) -> list[Any]:
    """The rows of a json: a list of them, a list under "data", or an object of captions by file name."""
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return value["data"]
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return [{"file_name": name, "caption": text} for name, text in value.items()]
    if not isinstance(value, list):
        raise ValueError('expected a list of rows, {"data": [...]}, or an object of captions by file name')
    return value


def _columns(where: str, row: Row, video: str | None, caption: str | None) -> tuple[str, str]:
    """Names of the columns of videos and captions, from the first row."""
    names = []
    for option, given, known in (("video", video, VIDEO_COLUMNS), ("caption", caption, CAPTION_COLUMNS)):
        there = [name for name in ([given] if given else known) if name in row]
        if len(there) != 1:
            has = ", ".join(str(name) for name in row)[:300]
            what = f"{' and '.join(there)} could both be" if there else f"no column {given or ', '.join(known)} is"
            raise UserError(f"{where}: {what} the {option}: it has {has}: name the column with --{option}-column")
        names.append(there[0])
    return names[0], names[1]


def _text(where: str, row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or (column in VIDEO_COLUMNS and not value.strip()):
        raise UserError(f"{where}: {column}: expected text, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {column}: holds half of a surrogate pair") from None
    return value


def _read(path: Path) -> str:
    try:
        with reading(path):
            if path.stat().st_size > CAPTIONS_BYTES:
                raise UserError(f"{path}: has more than {CAPTIONS_BYTES} bytes, the most that are read")
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
