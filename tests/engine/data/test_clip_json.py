"""A clip's json: known fields have their type; the message names the field with another type."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.engine.data.clip.clip_json import parse
from phys4d.engine.data.clip.schema import check_depth
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError

K = [[60, 0, 24], [0, 60.5, 24], [0, 0, 1]]
EYE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
SIZE = (5, 16, 24)
GOOD = {
    "caption": "a ball", "category": "rigid", "family": "fall", "intrinsics": [K] * 5, "camera_to_world": [EYE] * 5,
    "fps": 23.976, "frames": 5, "height": 16, "width": 24, "provenance": {"seed": 1}, "objects": [None, 3],
}  # fmt: skip


@pytest.mark.parametrize("text", ['a "' + "[" * 40, "[" * 40, "\\", '"', "}" * 40 + '\\"' + "{" * 40])
def test_brackets_in_a_text_are_not_depth(text: str) -> None:
    assert parse(json.dumps({"caption": text, "objects": [[text]]}).encode(), SIZE)["caption"] == text


def test_a_good_one_is_what_was_written() -> None:
    assert parse(json.dumps(GOOD).encode(), SIZE) == GOOD
    assert parse(b"{}", SIZE) == {}


@pytest.mark.parametrize("caption", ["", "a " * 100_000, "a red 🏀 falls", "كرة حمراء", "a\0b", "two\nlines\x1b[2J"])
def test_any_text_is_a_caption(caption: str) -> None:
    assert parse(json.dumps({"caption": caption}).encode(), SIZE) == {"caption": caption}
    assert parse(json.dumps({"caption": caption}, ensure_ascii=False).encode(), SIZE) == {"caption": caption}


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("caption", None, "expected text, got null"),
        ("caption", ["a", "b"], "expected text, got a list"),
        ("caption", 7, "expected text, got 7"),
        ("caption", {"en": "a"}, "expected text, got an object"),
        ("caption", False, "expected text, got false"),
        ("caption", "ab\ud83c", "character 2 is half of a surrogate pair"),
        ("category", 1, "expected text, got 1"),
        ("family", None, "expected text, got null"),
        ("intrinsics", None, "expected finite numbers [5, 3, 3], got null"),
        ("intrinsics", "K", "expected finite numbers [5, 3, 3], got text"),
        ("intrinsics", K, "expected finite numbers [5, 3, 3], got [3, 3]"),
        ("intrinsics", [K] * 4, "expected finite numbers [5, 3, 3], got [4, 3, 3]"),
        ("intrinsics", [*[K] * 4, EYE], "expected finite numbers [5, 3, 3], got lists of other lengths"),
        ("intrinsics", [[["60", 0, 24], *K[1:]]] * 5, "expected finite numbers [5, 3, 3], got something else in it"),
        ("intrinsics", [[[None, 0, 24], *K[1:]]] * 5, "expected finite numbers [5, 3, 3], got something else in it"),
        ("intrinsics", [[[float("nan"), 0, 24], *K[1:]]] * 5, "expected finite numbers [5, 3, 3], got one that is not"),
        ("camera_to_world", [EYE] * 6, "expected finite numbers [5, 4, 4], got [6, 4, 4]"),
        ("camera_to_world", [[[float("inf"), 0, 0, 0], *EYE[1:]]] * 5, "expected finite numbers [5, 4, 4], got one"),
        ("fps", 0, "expected a positive number, got 0"),
        ("fps", "24", "expected a positive number, got text"),
        ("fps", float("inf"), "expected a positive number, got inf"),
        ("fps", True, "expected a positive number, got true"),
        ("frames", None, "expected a positive number, got null"),
        ("height", -16, "expected a positive number, got -16"),
        ("width", [24], "expected a positive number, got a list"),
        ("provenance", "me", "expected an object, got text"),
        ("depth_kind", "relative", "expected metric or affine_disparity, got 'relative'"),
        ("depth_kind", ["metric"], "expected metric or affine_disparity, got ['metric']"),
    ],
)
def test_a_field_of_another_type_is_named(name: str, value: Any, fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(json.dumps(GOOD | {name: value}).encode(), SIZE)
    assert str(caught.value).startswith(f"{name}: {fault}")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"[1, 2]", "is a list, expected an object"),
        (b"null", "is null, expected an object"),
        (b'{"caption": "\xff"}', "is no JSON: 'utf-8' codec"),
        (b"[" * 100_000, "has lists or objects inside each other more than 32 deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "has lists or objects inside each other more than 32 deep"),
        (b'{"caption": "' + b"a" * (8 << 20) + b'"}', "has 8388623 bytes, at most 8388608 are read"),
        (b'{"fps": ' + b"9" * 5000 + b"}", "is no JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_object(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse(data, SIZE)


def test_reading_probing_and_verifying_name_folder_clip_and_field(
    write_dataset: Callable[[dict[int, dict[str, bytes]]], Path],
) -> None:
    folder = write_dataset({3: {"json": b'{"caption": null}'}})
    dataset, brief = ClipDataset(folder), "shard-000001.tar: clip clip-3: json caption: expected text, got null"
    assert dataset.probe(2)["caption"] == "clip number 2"
    for read in (dataset.probe, dataset.meta, dataset.__getitem__):
        with pytest.raises(UserError) as caught:
            read(3)
        assert str(caught.value) == f"{folder}/{brief}: see `phys4d data verify {folder}`"
    assert verify(folder) == [brief]


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        ("metric", {"depth": 0.0}, "array 'depth': 1 pixels of frame 1 are 0 m, but valid in 'depth_valid'"),
        ("metric", {"depth": -0.5}, "array 'depth': 1 values are negative, the lowest -0.5 m"),
        ("metric", {"dz_valid": True}, None),
        ("affine_disparity", {"depth": 0.0}, None),
        ("affine_disparity", {"depth": -0.5}, "array 'depth': 1 values are negative, the lowest -0.5"),
        ("affine_disparity", {"dz_valid": True}, "array 'dz_valid': 1 pixels are valid, but of affine_disparity no dz"),
    ],
)
def test_depth_is_checked_by_its_kind(kind: str, change: dict[str, Any], fault: str | None) -> None:
    arrays = {"depth": np.ones((2, 3, 4), np.float32), "depth_valid": np.ones((2, 3, 4), bool)}
    arrays["dz_valid"] = np.zeros((2, 3, 4), bool)
    for name, value in change.items():
        arrays[name][1, 2, 3] = value
    stated: list[dict[str, Any]] = [{"depth_kind": kind}, *([{}] if kind == "metric" else [])]
    for meta in stated:
        if fault is None:
            check_depth(arrays, meta)
            continue
        with pytest.raises(ValueError) as caught:
            check_depth(arrays, meta)
        assert str(caught.value).startswith(fault)
