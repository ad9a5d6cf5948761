"""Recordings that cannot be imported: one line with file and advice, exit code 2, no output."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.cli import main

DEPTH, CAMERA, RGB = "distance_to_image_plane_0003.npy", "camera_params_0003.json", "rgb_0003.png"
VECTORS, MASK, MAPPING = (
    "motion_vectors_0003.npy", "instance_segmentation_0003.png", "instance_segmentation_mapping_0003.json"
)  # fmt: skip


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def change(name: str, **values: object) -> Callable[[Path], object]:
    """Sets keys of a json; None removes them."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return apply


def save(name: str, array: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / name, array)


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def lie(folder: Path) -> None:
    """A header that asks for 400 TB."""
    path = folder / DEPTH
    path.write_bytes(path.read_bytes().replace(b"(48, 48)", b"(9999999, 9999999)"[:18]))


def archive(folder: Path) -> None:
    with open(folder / DEPTH, "wb") as file:
        np.savez(file, depth=np.zeros((48, 48), dtype=np.float32))


def only_one_frame(folder: Path) -> None:
    for path in folder.iterdir():
        if "_0000." not in path.name:
            path.unlink()


def no_pictures(folder: Path) -> None:
    for path in folder.glob("rgb_*"):
        path.unlink()


def without(annotator: str) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        for path in folder.glob(f"{annotator}_0*"):
            path.unlink()

    return apply


def small(name: str) -> Callable[[Path], object]:
    return lambda folder: Image.new("RGB", (24, 48)).save(folder / name)


SQUARE = np.zeros((48, 48), dtype=np.float32)
SHEAR = [1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
COLUMNS = [1, 0, 0, 5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
FLAT = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a frame is missing": (remove(RGB), f"{RGB}: is missing"),
    "depth of a frame is missing": (remove(DEPTH), f"{DEPTH}: is missing"),
    "a camera is missing": (remove(CAMERA), f"{CAMERA}: is missing"),
    "vectors of a frame are missing": (remove(VECTORS), f"{VECTORS}: is missing"),
    "a mapping is missing": (remove(MAPPING), f"{MAPPING}: is missing"),
    "no mapping": (without("instance_segmentation_mapping"), "no instance_segmentation_mapping"),
    "no camera": (without("camera_params"), "no camera_params"),
    "no depth": (without("distance_to_image_plane"), "no distance_to_image_plane and no distance_to_camera"),
    "no pictures": (no_pictures, "holds no rgb_0000.png"),
    "one frame": (only_one_frame, "rgb_0000.png: is the only frame"),
    "two pictures of a frame": (small("rgb_0003.jpg"), "is the same frame as"),
    "a picture of another size": (small(RGB), f"{RGB}: 48x24"),
    "a picture that is none": (put(RGB, b"no picture"), f"{RGB}: cannot be read"),
    "a picture that is cut off": (cut(RGB), f"{RGB}: cannot be read"),
    "depth that is cut off": (cut(DEPTH), f"{DEPTH}: cannot be read"),
    "depth that is empty": (put(DEPTH, b""), f"{DEPTH}: cannot be read"),
    "depth that is pickled": (put(DEPTH, pickle.dumps({"a": 1})), f"{DEPTH}: cannot be read"),
    "depth of objects": (lambda f: np.save(f / DEPTH, np.array([{}]), allow_pickle=True), f"{DEPTH}: cannot be read"),
    "depth that claims more than it has": (lie, f"{DEPTH}: cannot be read"),
    "depth in an archive": (archive, f"{DEPTH}: is an archive"),
    "depth of another size": (save(DEPTH, SQUARE[:40]), f"{DEPTH}: 40x48"),
    "depth in whole numbers": (save(DEPTH, SQUARE.astype(np.int32)), f"{DEPTH}: int32"),
    "vectors of one channel": (save(VECTORS, SQUARE), f"{VECTORS}: 1 channels"),
    "vectors of another size": (save(VECTORS, np.zeros((24, 24, 4), np.float32)), f"{VECTORS}: 24x24"),
    "a mask of another size": (small(MASK), f"{MASK}: 48x24"),
    "a mask of three channels": (lambda f: Image.new("RGB", (48, 48)).save(f / MASK), f"{MAPPING}: key"),
    "a mapping of words": (change(MAPPING, floor="/World/Floor"), f"{MAPPING}: key 'floor'"),
    "a camera that is no JSON": (put(CAMERA, b"{"), f"{CAMERA}: cannot be read"),
    "a camera that is a list": (put(CAMERA, b"[]"), f"{CAMERA}: holds a list"),
    "a camera without a pose": (change(CAMERA, cameraViewTransform=None), f"{CAMERA}: has no cameraViewTransform"),
    "a camera without a unit": (change(CAMERA, metersPerSceneUnit=None), f"{CAMERA}: has no metersPerSceneUnit"),
    "a unit of nothing": (change(CAMERA, metersPerSceneUnit=0), f"{CAMERA}: metersPerSceneUnit 0"),
    "a fisheye": (change(CAMERA, cameraModel="fisheyePolynomial"), f"{CAMERA}: cameraModel 'fisheyePolynomial'"),
    "an orthographic camera": (change(CAMERA, cameraProjection=FLAT), f"{CAMERA}: cameraProjection"),
    "a projection of nine": (change(CAMERA, cameraProjection=[1] * 9), f"{CAMERA}: cameraProjection"),
    "a projection of NaN": (change(CAMERA, cameraProjection=[float("nan")] * 16), f"{CAMERA}: cameraProjection"),
    "a view of words": (change(CAMERA, cameraViewTransform="identity"), f"{CAMERA}: cameraViewTransform"),
    "a view that shears": (change(CAMERA, cameraViewTransform=SHEAR), f"{CAMERA}: cameraViewTransform"),
    "a view in columns": (change(CAMERA, cameraViewTransform=COLUMNS), f"{CAMERA}: cameraViewTransform"),
    "another resolution": (change(CAMERA, renderProductResolution=[96, 96]), f"{CAMERA}: renderProductResolution"),
}


def refused(arguments: list[str], out: Path, capsys: pytest.CaptureFixture) -> str:
    """The one line on stderr of a command that fails and leaves nothing behind."""
    before = sorted(out.parent.iterdir())
    assert main(["data", "import-replicator", *arguments, "--out", str(out)]) == 2
    assert sorted(out.parent.iterdir()) == before
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("phys4d: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_recording_with_a_fault_is_refused_in_one_line(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, fault: str
) -> None:
    folder = write(tmp_path / "in", shot("fall", "static", 11))
    spoil, line = FAULTS[fault]
    spoil(folder)
    assert line in refused([str(folder)], tmp_path / "out", capsys)


def test_clips_of_different_sizes_are_not_one_dataset(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a", "b"):
        write(tmp_path / "in" / name, shot("fall", "static", 11))
    for path in (tmp_path / "in" / "b").glob("*_0005.*"):
        path.unlink()
    assert "(5, 48, 48) frames, height, width beside" in refused([str(tmp_path / "in")], tmp_path / "out", capsys)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--caption", "one", "--caption", "two"], "--caption: 2 for 1 clips"),
        (["--fps", "0"], "--fps 0"),
        (["--fps", "nan"], "--fps nan"),
        (["--fps", "1e9"], "--fps 1e+09"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], line: str
) -> None:
    folder = write(tmp_path / "in", shot("fall", "static", 11))
    assert line in refused([str(folder), *options], tmp_path / "out", capsys)


def test_a_folder_that_is_not_there_or_taken_is_refused(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert "no such folder" in refused([str(tmp_path / "nothing")], tmp_path / "out", capsys)
    folder = write(tmp_path / "in", shot("fall", "static", 11))
    assert "exists and is not empty" in refused([str(folder)], folder, capsys)


def test_more_instances_than_a_clip_holds_are_refused(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write(tmp_path / "in", shot("fall", "static", 11))
    for t in range(6):
        (folder / f"instance_segmentation_{t:04}.png").unlink()
        np.save(folder / f"instance_segmentation_{t:04}.npy", np.arange(48 * 48, dtype=np.uint32).reshape(48, 48))
        names = json.dumps({str(i): f"/World/Prim_{i}" for i in range(300)})
        (folder / f"instance_segmentation_mapping_{t:04}.json").write_text(names)
    assert "300 instances: a clip holds at most 255" in refused([str(folder)], tmp_path / "out", capsys)
