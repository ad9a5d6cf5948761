"""Clips as data of a page: what the player decodes is what was stored, and its points are the camera's."""

import base64
import json
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from phys4d.report.bundle import SCRIPTS, scripts
from phys4d.report.clip_data import DEPTH_STEP, MOTION_STEP, Row, Shown, clip_data
from phys4d.report.colours import flow, sequential, table
from phys4d.report.packing import NOTHING, packed_bytes, packed_numbers
from phys4d.report.ranges import Ranges, compared_ranges, true_ranges
from tests.report.browser import node


def unpacked(packed: dict) -> np.ndarray:
    """The values of a packed array, written from the format alone."""
    kind = {"u8": "u1", "i16": "<i2"}[packed["type"]]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    size = np.dtype(kind).itemsize
    codes = np.ascontiguousarray(planes.reshape(size, -1).T).view(kind).reshape(packed["shape"][0], -1)
    codes = np.cumsum(codes, axis=0 if packed["along"] == "time" else 1, dtype=kind).reshape(packed["shape"])
    if packed["scale"] == "none":
        return codes
    values = codes * packed["step"]
    return np.where(codes == NOTHING, np.nan, np.exp(values) if packed["scale"] == "log" else values)


def test_packed_arrays_are_what_was_packed() -> None:
    rng = np.random.default_rng(0)
    still = np.broadcast_to(rng.integers(0, 256, (1, 4, 5, 3), dtype=np.uint8), (6, 4, 5, 3))
    ramp = np.arange(60, dtype=np.uint8).reshape(3, 20) * np.arange(1, 5, dtype=np.uint8)[:, None, None]
    chosen = set()
    for values in (still, ramp, rng.integers(0, 256, (2, 3, 4), dtype=np.uint8)):
        packed = packed_bytes(values)
        chosen.add(packed["along"])
        assert np.array_equal(unpacked(packed), values)
    assert chosen == {"time", "row"}
    depth = rng.uniform(0.2, 30, (5, 6, 7)).astype(np.float32)
    depth[2, 3, 4], depth[0, 0, 0] = 0, np.nan
    read = unpacked(packed_numbers(depth, DEPTH_STEP, "log"))
    assert np.isnan(read).sum() == 2 and np.isnan(read[[2, 0], [3, 0], [4, 0]]).all()
    assert np.nanmax(abs(np.log(read / np.where(depth > 0, depth, np.nan)))) <= 0.51 * DEPTH_STEP
    motion = rng.normal(0, 50, (5, 2, 6, 7))
    motion[0, 0, 0, 0] = 1e9
    read = unpacked(packed_numbers(motion, MOTION_STEP, "linear"))
    assert read[0, 0, 0, 0] == pytest.approx(327.67) and abs(read - motion).ravel()[1:].max() <= 0.51 * MOTION_STEP


def a_clip(size: tuple[int, int], side: int) -> tuple[dict, dict[str, np.ndarray]]:
    """A moving camera before a wall: data of the clip, and its arrays."""
    rng = np.random.default_rng(1)
    height, width = size
    arrays = {
        "video": rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8),
        "depth": rng.uniform(1, 4, (3, height, width)), "motion": rng.normal(0, 2, (3, 2, height, width)),
    }  # fmt: skip
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, 3] = [[1, 2, 3], [1.5, 2, 3], [1, 2.25, 3]]
    poses[2, :3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    lens = np.tile([[60.0, 0, width / 2], [0, 60, height / 2], [0, 0, 1]], (3, 1, 1))
    shown = Shown("key", "a caption", 8.0, lens, poses, "rigid", "fall")
    other = arrays | {"depth": arrays["depth"] * 1.1}
    rows = [Row("truth", {"generated": arrays}), Row("model", {"generated": other}, "a note")]
    return clip_data(shown, rows, compared_ranges(arrays, [other]), side), arrays


def test_arrays_that_rows_share_are_stored_once() -> None:
    data, _ = a_clip((6, 8), 100)
    assert len(data["arrays"]) == 4  # video, depth and motion of the truth, depth of the model
    views = [row["views"]["generated"] for row in data["rows"]]
    assert views[0]["video"] == views[1]["video"] and views[0]["depth"] != views[1]["depth"]
    assert [row["note"] for row in data["rows"]] == ["", "a note"]
    assert data["ranges"]["depth_error"] == pytest.approx(0.1)


@pytest.mark.parametrize("by", [2, 3])
def test_a_large_clip_is_shrunk_with_its_motion_and_its_camera(by: int) -> None:
    """The pixel that is kept sees the same surface: its ray through the new intrinsics is that through the old."""
    data, arrays = a_clip((25, 31), -(-31 // by))
    assert (data["height"], data["width"], data["shrunk"]) == (25 // by, 31 // by, by)
    views = data["rows"][0]["views"]["generated"]
    read = {name: unpacked(data["arrays"][number]) for name, number in views.items()}
    v, u = 4, 6
    top, left = v * by + by // 2, u * by + by // 2
    assert read["depth"][1, v, u] == pytest.approx(arrays["depth"][1, top, left], rel=1e-3)
    assert read["motion"][1, :, v, u] == pytest.approx(arrays["motion"][:2, 1, top, left] / by, abs=0.006)
    block = arrays["video"][1, v * by : v * by + by, u * by : u * by + by].mean((0, 1))
    assert abs(read["video"][1, v, u] - block).max() <= 0.5
    fx, fy, cx, cy = data["intrinsics"][1]
    ray = ((left + 0.5 - 15.5) / 60, (top + 0.5 - 12.5) / 60)
    assert ((u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy) == pytest.approx(ray, abs=1e-6)
    assert data["ranges"]["motion"] == pytest.approx(true_ranges(arrays["depth"], arrays["motion"]).motion / by)


def test_ranges_come_from_the_truth_and_errors_from_all_rows() -> None:
    depth, motion = np.full((2, 4, 4), 2.0), np.zeros((2, 1, 4, 4))
    depth[0, 0, 0], depth[1, 1, 1], motion[0] = 0, 5, 3
    truth = {"depth": depth, "motion": motion, "video": np.zeros((2, 4, 4, 3), np.uint8)}
    found = compared_ranges(truth, [truth | {"depth": depth * 1.5}, {"motion": motion + 4}])
    assert (found.near, found.motion) == (2, 3) and 4 < found.far <= 5
    assert (found.depth_error, found.colour_error) == (0.5, 16)
    assert found.motion_error == pytest.approx(np.hypot(4, 4))
    assert found.shrunk(2).motion == 1.5 and found.shrunk(2).depth_error == 0.5
    assert true_ranges(np.zeros((1, 2, 2)), np.zeros((2, 1, 2, 2))) == Ranges(0, 1, 0.5)


def run_in_node(code: str, given: object, tmp_path: Path) -> object:
    """What the page's scripts, followed by this code, print as JSON; `given` is a global."""
    text = f"const given = {json.dumps(given)};\n{scripts(SCRIPTS[:-1])}\n{code}"
    (tmp_path / "run.mjs").write_text(text)
    done = subprocess.run([node(), tmp_path / "run.mjs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_player_decodes_and_lifts_as_this_does(tmp_path: Path) -> None:
    data, arrays = a_clip((25, 31), 16)
    code = """
const clip = await decodeClip(given);
const points = new Float32Array(4 * clip.height * clip.width);
const [truth, model] = clip.rows.map((row) => row.views.generated);
liftPoints(clip, truth.depth, 2, points);
const kinds = ["depth", "motion", "colour"].map((kind) => mean(errors(clip, kind, model, truth, 1)));
console.log(JSON.stringify({ video: [...truth.video], depth: [...truth.depth], motion: [...truth.motion],
  points: [...points], kinds, interest: interest(clip, truth) }));
"""
    found = run_in_node(code, data, tmp_path)
    views = data["rows"][0]["views"]["generated"]
    read = {name: unpacked(data["arrays"][number]) for name, number in views.items()}
    for name, values in read.items():
        assert np.allclose(np.array(found[name]).reshape(values.shape), values, rtol=1e-6), name
    fx, fy, cx, cy = data["intrinsics"][2]
    v, u = np.mgrid[: data["height"], : data["width"]] + 0.5
    z = read["depth"][2]
    camera = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)
    world = camera @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]).T + [0, 0.25, 0]  # frame 0 stands at (1, 2, 3)
    points = np.array(found["points"]).reshape(*z.shape, 4)
    assert np.allclose(points[..., :3], world, atol=1e-4) and np.allclose(points[..., 3], z / fx, rtol=1e-4)
    assert found["kinds"] == pytest.approx([0.1, 0, 0], abs=1e-3)
    at = arrays["motion"].shape[1] - 1  # the target is the median of what moves in the middle of the clip
    moving = np.hypot(*read["motion"][min(1, at)]) > 0.5
    z = read["depth"][1]
    x = ((u - data["intrinsics"][1][2]) / fx * z + 0.5)[moving]
    assert found["interest"][0] == pytest.approx(np.sort(x)[x.size // 2], abs=1e-4)


def test_the_player_colours_as_the_pictures_are_coloured(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    motion = np.concatenate([rng.normal(0, 2, (2, 40)), [[0, np.nan], [0, 1]]], axis=1)
    values = np.array([0.0, 0.4, 1.0, 7.0, -3.0])
    code = """
const pixels = new Uint8ClampedArray(given.values.length * 4);
paintScalars(Float32Array.from(given.values), 0, 0, 2, "magma", pixels);
const motion = Float32Array.from(given.motion.flat().map((x) => (x === null ? NaN : x)));
const flow = new Uint8ClampedArray(motion.length * 2);
paintMotion(motion, 0, 3, flow);
console.log(JSON.stringify({ maps: ["viridis", "magma"].map((name) => [...colourMap(name)]), pixels: [...pixels],
  flow: [...flow] }));
"""
    given = {"values": values.tolist(), "motion": [[None if x != x else x for x in row] for row in motion.tolist()]}
    found = run_in_node(code, given, tmp_path)
    for name, colours in zip(("viridis", "magma"), found["maps"], strict=True):
        assert abs(np.array(colours).reshape(256, 3) - table(name).astype(int)).max() <= 1
    shown = np.array(found["pixels"]).reshape(-1, 4)
    assert abs(shown[:, :3] - sequential(values, 0, 2, name="magma").astype(int)).max() <= 1
    assert (shown[:, 3] == 255).all()
    painted = np.array(found["flow"]).reshape(-1, 4)[:, :3]
    assert abs(painted - flow(motion[:, None].astype(np.float32), 3.0)[0].astype(int)).max() <= 1
