"""Copies of datasets at another size, rate or codec: labels are those of the same scene, seen by the new camera."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.schema import REQUIRED
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.data.decoders.probe import probe
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.tools import repack as repacking
from phys4d.engine.data.tools.framing import Framing
from phys4d.engine.data.tools.repack import RepackConfig, repack
from phys4d.engine.data.tools.resampling import resized, resized_meta
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError

FRAMES, HEIGHT, WIDTH = 5, 24, 40
K = [[35.0, 0, 21.0], [0, 33.0, 11.5], [0, 0, 1]]
NORMAL, DISTANCE, SPEED = np.array([0.25, -0.55, 0.8]), 2.5, np.array([0.08, -0.02, 0.1])  # of a plane, per frame
SIZES = [(12, 20), (48, 80), (24, 24), (36, 50), (17, 17)]
Write = Callable[[dict[int, dict[str, bytes]]], Path]


def rays(intrinsics: np.ndarray, height: int, width: int) -> np.ndarray:
    """Directions [H, W, 3] with z = 1 of the pixels' centres."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T


def plane_depth(intrinsics: np.ndarray, height: int, width: int, t: float) -> np.ndarray:
    """Depth [H, W] of the plane n.p = d + n.v t, by its equation."""
    return (DISTANCE + NORMAL @ SPEED * t) / (rays(intrinsics, height, width) @ NORMAL)


def moving_plane() -> dict[str, np.ndarray]:
    """A textured plane that moves by SPEED metres a frame; its motion by projecting each point at t and t + 1."""
    k = np.array(K)
    depth = np.stack([plane_depth(k, HEIGHT, WIDTH, t) for t in range(FRAMES)])
    points = rays(k, HEIGHT, WIDTH) * depth[:-1, ..., None] + SPEED
    projected = points @ k.T
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    flow = projected[..., :2] / projected[..., 2:] - np.stack([x, y], axis=-1)
    motion = np.concatenate([np.moveaxis(flow, -1, 0), np.broadcast_to(SPEED[2], (1, FRAMES - 1, HEIGHT, WIDTH))])
    instance = np.broadcast_to(np.arange(WIDTH) // 10 + 1, (FRAMES, HEIGHT, WIDTH)).astype(np.uint8)
    seen = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    seen[:, :3, :4] = False
    depth = np.where(seen, depth, 0)
    return {"depth": depth.astype(np.float32), "motion": motion.astype(np.float32), "depth_valid": seen,
            "flow_valid": seen[:-1].copy(), "instance": instance}  # fmt: skip


META = {"caption": "a plane", "intrinsics": [K] * FRAMES, "height": HEIGHT, "width": WIDTH, "frames": FRAMES,
        "provenance": {"source": "test"}}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_the_labels_are_those_of_the_same_plane(size: tuple[int, int]) -> None:
    framing, arrays = Framing((HEIGHT, WIDTH), size), moving_plane()
    one_surface = arrays | {"instance": np.ones_like(arrays["instance"])}
    done, meta = resized(one_surface, framing), resized_meta(META, framing)
    new = np.array(meta["intrinsics"])[0]
    assert (meta["height"], meta["width"]) == size and len(meta["intrinsics"]) == FRAMES
    whole = done["depth_valid"].copy()
    whole[:, : size[0] // 3, : size[1] // 3] = False  # beside the part without depth it is that of the nearest pixel
    for t in range(FRAMES):
        expected = plane_depth(new, *size, t)
        np.testing.assert_allclose(done["depth"][t][whole[t]], expected[whole[t]], rtol=1e-5)
    # A point moved by its motion lies on the plane one frame later, where its new pixel sees it.
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    for t in range(FRAMES - 1):
        du, dv, dz = done["motion"][:, t]
        place = np.stack([x + du, y + dv, np.ones_like(x)], axis=-1) @ np.linalg.inv(new).T
        moved = place * (done["depth"][t] + dz)[..., None]
        off = np.abs(moved @ NORMAL - (DISTANCE + NORMAL @ SPEED * (t + 1)))[whole[t]]
        assert off.max() < 0.02 * framing.scale  # nearest motion is of a place up to half a source pixel away


@pytest.mark.parametrize("size", SIZES)
def test_intrinsics_see_the_same_rays(size: tuple[int, int]) -> None:
    framing = Framing((HEIGHT, WIDTH), size)
    new = np.array(resized_meta(META, framing)["intrinsics"])[2]
    rows, columns = framing.centres()
    x, y = np.meshgrid(columns, rows)
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(np.array(K)).T
    np.testing.assert_allclose(rays(new, *size), source, atol=1e-12)
    left, top, right, bottom = framing.box
    assert ((columns > left) & (columns < right)).all() and ((rows > top) & (rows < bottom)).all()


def test_masks_and_instances_are_nearest_and_flow_is_scaled_by_hand() -> None:
    arrays = moving_plane()
    half = resized(arrays, Framing((HEIGHT, WIDTH), (12, 20)))
    assert np.array_equal(half["instance"], arrays["instance"][:, 1::2, 1::2])
    assert np.array_equal(half["depth_valid"], arrays["depth_valid"][:, 1::2, 1::2])
    assert np.array_equal(half["motion"][:2], arrays["motion"][:2, :, 1::2, 1::2] * np.float32(0.5))
    assert np.array_equal(half["motion"][2], arrays["motion"][2, :, 1::2, 1::2])
    cut = resized(arrays, Framing((HEIGHT, WIDTH), (24, 24)))
    for name, array in arrays.items():
        np.testing.assert_allclose(cut[name], array[..., 8:32], rtol=1e-6)


def test_depth_is_not_mixed_across_an_edge() -> None:
    depth = np.full((1, 8, 8), 1.0, np.float32)
    depth[:, :, 4:] = 5.0
    for others in ({}, {"instance": (depth > 2).astype(np.uint8)}):
        done = resized({"depth": depth, **others}, Framing((8, 8), (12, 12)))
        assert set(np.unique(done["depth"])) == {1.0, 5.0}
    near = depth.clip(max=1.05)  # a step within the ratio of one surface, but of two instances
    done = resized({"depth": near, "instance": (near > 1).astype(np.uint8)}, Framing((8, 8), (12, 12)))
    assert set(np.unique(done["depth"])) == {np.float32(1.0), np.float32(1.05)}


def test_disparity_is_that_of_the_nearest_pixel(tmp_path: Path) -> None:
    """Up to a shift, neither its ratios nor its inverse mean anything."""
    disparity = np.arange(FRAMES * HEIGHT * WIDTH, dtype=np.float32).reshape(FRAMES, HEIGHT, WIDTH)
    arrays = {"depth": disparity, "depth_valid": np.ones(disparity.shape, bool)}
    meta = json.dumps(META | {"depth_kind": "affine_disparity"}).encode()
    mp4 = encode_mp4(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8), 24)
    with ShardWriter(tmp_path / "scene") as writer:
        truth = blob.encode(arrays, blob.quantisation(arrays, "affine_disparity"))
        writer.add("a", {"mp4": mp4, "json": meta, "truth": truth}, FRAMES, 24, HEIGHT, WIDTH)
    for size, change in (((12, 20), np.s_[:, 1::2, 1::2]), ((24, 24), np.s_[..., 8:32])):
        out = tmp_path / f"{size[1]}"
        repack(tmp_path / "scene", out, RepackConfig(size=size))
        assert verify(out) == [] and ClipDataset(out).column("depth_kind").to_pylist() == ["affine_disparity"]
        found = ClipDataset(out)[0]
        assert found.meta["depth_kind"] == "affine_disparity"
        np.testing.assert_allclose(found.arrays["depth"], disparity[change], atol=2e-5 * disparity.max())


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A dataset of three clips of the plane, the last without motion, and one of another category."""
    arrays, rng = moving_plane(), np.random.default_rng(0)
    with ShardWriter(tmp_path / "scene") as writer:
        for number in range(3):
            kept = arrays if number < 2 else {name: arrays[name] for name in ("depth", "depth_valid")}
            light = rng.integers(40, 256, (FRAMES, 6, 10, 1)).repeat(4, 1).repeat(4, 2)
            frames = (light * (1.0, 0.8, 0.6)).astype(np.uint8)  # one hue: 4:2:0 blurs colours, and not light
            tracks = {"1": {"position": [[0, 0, t] for t in range(5)]}}
            meta = META | {"category": "fluid" if number else "rigid", "tracks": tracks}
            members = {
                "mp4": encode_mp4(frames, 24, pixel_format="yuv420p" if number else "yuv444p"),
                "truth": blob.encode(kept, {n: r for n, r in blob.QUANTISATION.items() if n in kept}),
                "json": json.dumps(meta).encode(),
            }
            writer.add(f"c{number}", members, FRAMES, 24, HEIGHT, WIDTH)
    return tmp_path / "scene"


def read(folder: Path) -> list[Sample]:
    dataset = ClipDataset(folder, required=REQUIRED)
    return [dataset[index] for index in range(len(dataset))]


def test_a_copy_of_another_size(scene: Path, tmp_path: Path) -> None:
    command = ["data", "repack", str(scene), "--out", str(tmp_path / "out"), "--size", "12x20", "--workers", "2"]
    assert main(command) == 0
    assert verify(tmp_path / "out") == []
    source, copy = ClipDataset(scene), ClipDataset(tmp_path / "out")
    for index, (before, after) in enumerate(zip(read(scene), read(tmp_path / "out"), strict=True)):
        assert after.video.shape == (FRAMES, 12, 20, 3) and after.key == before.key
        mean = before.video.reshape(FRAMES, 12, 2, 20, 2, 3).mean((2, 4))
        assert np.abs(after.video - mean).mean() < 12
        expected = resized(before.arrays, Framing((HEIGHT, WIDTH), (12, 20)))
        assert after.arrays.keys() == expected.keys()
        for name, array in expected.items():
            bound = {"depth": 4e-4, "motion": 0.02}.get(name, 0)
            np.testing.assert_allclose(after.arrays[name], array, rtol=bound, atol=bound)
        assert after.meta["intrinsics"][0][0][0] == pytest.approx(17.5)
        origin = {"size": [24, 40], "box": [0, 0, 40, 24], "fps": 24, "frames": 5}
        assert after.meta["provenance"] == {"source": "test", "repacked_from": origin}
        pixels = [probe(d.member(d.row(index), "mp4")).pixel_format for d in (source, copy)]
        assert pixels == ["yuv420p" if index else "yuv444p"] * 2
    assert copy.column("category").to_pylist() == ["rigid", "fluid", "fluid"]


def test_members_are_copied_where_the_pictures_stay(scene: Path, tmp_path: Path) -> None:
    command = ["data", "repack", str(scene), "--out", str(tmp_path / "out"), "--shard-bytes", "1"]
    assert main([*command, "--where", "category=fluid", "--where", "frames=5,7"]) == 0
    source, copy = ClipDataset(scene), ClipDataset(tmp_path / "out")
    assert copy.keys().to_pylist() == ["c1", "c2"] and len(list((tmp_path / "out").glob("*.tar"))) == 2
    for index in range(2):
        before, after = source.row(index + 1), copy.row(index)
        assert all(copy.member(after, name) == source.member(before, name) for name in ("mp4", "truth", "json"))


def test_another_codec(scene: Path, tmp_path: Path) -> None:
    config = RepackConfig(codec="vp9")
    for out in ("one", "two"):
        assert repack(scene, tmp_path / out, config, workers=1 + (out == "two")) == 3
    one, two, source = (ClipDataset(tmp_path / name) for name in ("one", "two", "scene"))
    for index in range(3):
        data = one.member(one.row(index), "mp4")
        assert probe(data).codec == "vp9" and data == two.member(two.row(index), "mp4")
        assert np.abs(one[index].video.astype(int) - source[index].video).mean() < 6
        assert one.member(one.row(index), "truth") == source.member(source.row(index), "truth")
    assert verify(tmp_path / "one") == []


def test_a_lower_rate_takes_the_frames_that_a_player_shows(scene: Path, tmp_path: Path) -> None:
    config = RepackConfig(fps=12, where={"category": ["fluid"]})
    with pytest.raises(UserError, match=r"clip c1: holds the array 'motion', which is from one frame to the n"):
        repack(scene, tmp_path / "out", config)
    with ShardWriter(tmp_path / "still") as writer:
        dataset = ClipDataset(scene)
        row = dataset.row(2)
        writer.add("c2", {name: dataset.member(row, name) for name in row["members"]}, FRAMES, 24, HEIGHT, WIDTH)
    for fps, frames in ((12, [0, 2, 4]), (16, [0, 1, 3]), (6, [0, 4])):
        out = tmp_path / f"at{fps}"
        assert repack(tmp_path / "still", out, RepackConfig(fps=fps)) == 1
        (before,), (after,) = read(tmp_path / "still"), read(out)
        assert np.abs(after.video.astype(int) - before.video[frames]).mean() < 6
        np.testing.assert_allclose(after.arrays["depth"], before.arrays["depth"][frames], rtol=4e-4)
        assert after.meta["tracks"]["1"]["position"] == [[0, 0, t] for t in frames] and after.meta["fps"] == fps
        assert ClipDataset(out).row(0)["fps"] == fps and verify(out) == []


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--size", "12by20"], "data repack: size: expected HEIGHTxWIDTH"),
        (["--fps", "30"], "clip c0: has 24 frames a second: 30 would repeat frames"),
        (["--where", "category"], "--where category: expected COLUMN=VALUE,VALUE"),
        (["--where", "fps=fast"], "--where fps=fast: fps: expected numbers"),
        (["--where", "category=gas"], "where: no clip has category 'gas': there are 'fluid', 'rigid'"),
        (["--size", "13x21"], "clip c1: yuv420p needs even height and width, got 13x21"),
        (["--workers", "0"], "--workers 0: expected 1 or more"),
        (["--shard-bytes", "0"], "data repack: shard_bytes: expected a number"),
    ],
)
def test_what_is_refused(
    scene: Path, tmp_path: Path, arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "repack", str(scene), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert fault in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"size": (12, 20)}, {"fps": 12.0}])
def test_what_has_no_rule_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    mp4 = encode_mp4(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8), 24)
    clips = {
        "holds the array 'heat', of which is not known how it follows": {"truth": blob.encode({"heat": np.zeros(3)})},
        "holds jpg, of which is not known how it follows": {"jpg": b"x"},
    }
    for number, (fault, members) in enumerate(clips.items()):
        with ShardWriter(tmp_path / f"{number}") as writer:
            writer.add("a", {"mp4": mp4, "json": json.dumps(META).encode()} | members, FRAMES, 24, HEIGHT, WIDTH)
        with pytest.raises(UserError, match=f"{number}/shard-000000.tar: clip a: {fault}"):
            repack(tmp_path / f"{number}", tmp_path / "out", RepackConfig(**change))


def test_an_assumed_camera_for_clips_without_one(scene: Path, tmp_path: Path) -> None:
    mp4 = encode_mp4(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8), 24)
    with ShardWriter(tmp_path / "bare") as writer:
        writer.add("a", {"mp4": mp4, "txt": b"a plane", "jpg": b"x"}, FRAMES, 24, HEIGHT, WIDTH)
        writer.add("b", {"mp4": mp4, "json": json.dumps(META).encode()}, FRAMES, 24, HEIGHT, WIDTH)
    assert main(["data", "repack", str(tmp_path / "bare"), "--out", str(tmp_path / "out"), "--fov", "90"]) == 0
    source, copy = ClipDataset(tmp_path / "bare"), ClipDataset(tmp_path / "out", required=REQUIRED)
    meta = copy.meta(0)
    np.testing.assert_allclose(meta["intrinsics"], [[[20, 0, 20], [0, 20, 12], [0, 0, 1]]] * FRAMES, rtol=1e-12)
    assert meta["caption"] == "a plane" and meta["provenance"]["assumed"]["horizontal_fov_degrees"] == 90
    assert copy.member(copy.row(0), "jpg") == b"x" and copy.member(copy.row(0), "mp4") == mp4
    assert copy.member(copy.row(1), "json") == source.member(source.row(1), "json")
    assert verify(tmp_path / "out") == []


def test_it_goes_on_after_it_was_stopped(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, made, real = RepackConfig(size=(12, 20)), [], repacking._Copy.made

    def stops(self: repacking._Copy) -> Any:
        made.append(self.index)
        if made == [0, 1, 2]:
            raise KeyboardInterrupt
        return real(self)

    repack(scene, tmp_path / "whole", config)
    monkeypatch.setattr(repacking._Copy, "made", stops)
    with pytest.raises(KeyboardInterrupt):
        repack(scene, tmp_path / "out", config)
    repack(scene, tmp_path / "out", config)
    assert made == [0, 1, 2, 2]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
