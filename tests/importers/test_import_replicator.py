"""A recording written from exact truth is imported as that truth; unknown values are masked."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.cli import main
from phys4d.clips import TRUTH, Clips
from phys4d.engine.data.clip import blob
from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.importers.replicator.dataset import import_replicator
from phys4d.models.tiny.words import WordEncoder

LAYOUTS = ("flat", "camera folders", "annotator folders", "shared folders")
SHOTS = [("fall", "static", 11), ("collision", "static", 11), ("spin", "moving", 11), ("ramp", "moving", 11)]


def brought_in(folder: Path, out: Path) -> Sample:
    """The only clip of an imported folder."""
    import_replicator(folder, out, fps=12, captions=["things move"])
    dataset = ClipDataset(out)
    assert len(dataset) == 1
    return dataset[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_depth_comes_back_bit_for_bit_and_cameras_to_rounding(
    shot: Callable, write: Callable, tmp_path: Path, layout: str
) -> None:
    made = shot("spin", "moving", 11)
    sample = brought_in(write(tmp_path / "in", made, layout=layout, first=7), tmp_path / "out")
    kept = blob.decode(blob.encode(made.truth.stored(), blob.QUANTISATION))
    for name in ("depth", "depth_valid"):
        np.testing.assert_array_equal(sample.arrays[name], kept[name])
    np.testing.assert_allclose(sample.meta["intrinsics"], made.camera.intrinsics, rtol=1e-12)
    np.testing.assert_allclose(sample.meta["camera_to_world"], made.camera.camera_to_world, rtol=0, atol=1e-12)
    error = np.abs(sample.video.astype(int) - made.pictures)
    assert error.mean() < 2  # a coded video of these pictures, in this order
    assert sample.meta["caption"] == "things move" and sample.meta["provenance"]["first_frame"] == 7


@pytest.mark.parametrize("near", [1e-5, 1e-3, 1e-2, 1e-30])
def test_one_pixel_before_the_lens_does_not_cost_the_others_their_depth(
    shot: Callable, write: Callable, tmp_path: Path, near: float
) -> None:
    made = shot("fall", "static", 11)
    folder = write(tmp_path / "in", made)
    depth = np.load(folder / "distance_to_image_plane_0000.npy")
    depth[0, 0] = near
    np.save(folder / "distance_to_image_plane_0000.npy", depth)
    arrays = brought_in(folder, tmp_path / "out").arrays
    assert arrays["depth_valid"][0, 0, 0]
    np.testing.assert_allclose(arrays["depth"][0], depth, rtol=2e-4)
    np.testing.assert_allclose(arrays["depth"][1:], made.truth.depth[1:], rtol=2e-4)


def test_instances_keep_their_prims_though_colours_change(shot: Callable, write: Callable, tmp_path: Path) -> None:
    made = shot("fall", "static", 11)
    sample = brought_in(write(tmp_path / "in", made), tmp_path / "out")
    prim = {f"/World/Prim_{i:02}": i for i in range(60)}
    table = np.array([0, *(prim[thing["name"]] for thing in sample.meta["objects"])])
    np.testing.assert_array_equal(table[sample.arrays["instance"]], made.truth.instance)


@pytest.mark.parametrize("scene", SHOTS)
def test_motion_is_that_of_the_truth_wherever_it_is_said_to_be_known(
    shot: Callable, write: Callable, tmp_path: Path, scene: tuple[str, str, int]
) -> None:
    made = shot(*scene)
    arrays, truth = brought_in(write(tmp_path / "in", made), tmp_path / "out").arrays, made.truth
    known = arrays["flow_valid"]
    off = np.linalg.norm(arrays["motion"][:2] - truth.motion[:2], axis=0)[known]
    assert np.median(off) < 3e-4 and np.quantile(off, 0.99) < 0.1 and off.max() < 1
    dz = np.abs(arrays["motion"][2] - truth.motion[2])[known]
    assert np.median(dz) < 5e-5 and np.quantile(dz, 0.99) < 5e-3
    assert known[truth.visible].mean() > 0.85 and known[truth.visible & truth.moving].mean() > 0.4
    assert (known & ~truth.visible).sum() <= 1e-3 * known.sum()
    assert not arrays["motion"][:, ~known].any()
    for name in ("visible", "dz_valid"):
        np.testing.assert_array_equal(arrays[name], known)


@pytest.mark.parametrize("scene", SHOTS)
def test_nothing_at_rest_is_called_moving_and_nearly_all_that_moves_is(
    shot: Callable, write: Callable, tmp_path: Path, scene: tuple[str, str, int]
) -> None:
    made = shot(*scene)
    arrays, truth = brought_in(write(tmp_path / "in", made), tmp_path / "out").arrays, made.truth
    assert not (arrays["moving"] & ~truth.moving).any()
    assert arrays["moving"][arrays["flow_valid"] & truth.moving].mean() > 0.95


def test_the_world_at_rest_before_a_static_camera_is_stored_as_zero(
    shot: Callable, write: Callable, tmp_path: Path
) -> None:
    made = shot("fall", "static", 11)
    arrays = brought_in(write(tmp_path / "in", made), tmp_path / "out").arrays
    rest = arrays["flow_valid"] & ~made.truth.moving
    assert rest.mean() > 0.85
    assert np.abs(arrays["motion"][:2, rest]).max() < 1e-3 and np.abs(arrays["motion"][2, rest]).mean() < 1e-6


def test_vectors_of_another_sign_or_half_a_pixel_off_would_be_noticed(
    shot: Callable, write: Callable, tmp_path: Path
) -> None:
    made = shot("collision", "static", 11)
    with pytest.raises(UserError, match="motion_vectors: of .* they lead"):
        brought_in(write(tmp_path / "sign", replace(made, vectors=-made.vectors)), tmp_path / "sign out")
    folder = write(tmp_path / "shift", replace(made, vectors=made.vectors + np.float32(0.5)))
    arrays = brought_in(folder, tmp_path / "shift out").arrays
    known = arrays["flow_valid"] & made.truth.moving
    off = np.linalg.norm(arrays["motion"][:2] - made.truth.motion[:2], axis=0)
    assert known.sum() < 50 or np.median(off[known]) > 0.3


@pytest.mark.parametrize("factor", [-1, 1 / 48, 2, 0])
def test_vectors_that_do_not_fit_a_moving_camera_are_refused(
    shot: Callable, write: Callable, tmp_path: Path, factor: float
) -> None:
    made = shot("spin", "moving", 11)
    wrong = replace(made, vectors=(made.vectors * factor).astype(np.float32))
    with pytest.raises(UserError, match="motion_vectors: only .* as the camera's own motion says"):
        brought_in(write(tmp_path / "in", wrong), tmp_path / "out")


def test_distance_to_the_camera_becomes_depth_along_the_axis(shot: Callable, write: Callable, tmp_path: Path) -> None:
    made = shot("ramp", "moving", 11)
    sample = brought_in(write(tmp_path / "in", made, distance="distance_to_camera"), tmp_path / "out")
    kept = blob.decode(blob.encode(made.truth.stored(), blob.QUANTISATION))["depth"]
    # float32 of the distance may tip the rounding of 1/depth to 16 bits over to the next step.
    entry = blob.header(blob.encode(made.truth.stored(), blob.QUANTISATION))["depth"]
    inverse = [np.divide(1, d, where=d > 0, out=np.zeros_like(d)) for d in (sample.arrays["depth"], kept)]
    steps = np.abs(inverse[0] - inverse[1]) / entry["quantisation"]["step"]
    assert steps.max() < 1.1 and np.quantile(steps, 0.98) < 0.1


def test_without_segmentation_less_is_known_and_nearly_nothing_wrong(
    shot: Callable, write: Callable, tmp_path: Path
) -> None:
    made = shot("collision", "static", 11)
    full = brought_in(write(tmp_path / "full", made), tmp_path / "full out").arrays
    bare = brought_in(write(tmp_path / "bare", made, without=("instance_segmentation",)), tmp_path / "out").arrays
    assert "instance" not in bare
    assert 0 < bare["flow_valid"].sum() < full["flow_valid"].sum()
    off = np.linalg.norm(bare["motion"][:2] - made.truth.motion[:2], axis=0)[bare["flow_valid"]]
    assert np.quantile(off, 0.99) < 0.1 and (off > 1).mean() < 1e-3  # 6 of 10,506 pixels, where two bodies touch


def test_without_motion_vectors_no_motion_is_known(
    shot: Callable, write: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made = shot("fall", "static", 11)
    folder = write(tmp_path / "in", made, without=("motion_vectors",))
    assert main(["data", "import-replicator", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "1 without motion_vectors" in capsys.readouterr().out
    sample = ClipDataset(tmp_path / "out")[0]
    for name in ("motion", "flow_valid", "dz_valid", "visible", "moving"):
        assert not sample.arrays[name].any()
    assert sample.arrays["depth_valid"].any() and sample.meta["caption"] == "" and sample.meta["fps"] == 24


@pytest.mark.parametrize("nothing", [np.inf, 0.0, np.nan, -np.inf])
def test_background_has_no_depth_and_no_motion(
    shot: Callable, write: Callable, tmp_path: Path, nothing: float
) -> None:
    made = shot("fall", "static", 11)
    folder = write(tmp_path / "in", made)
    for path in folder.glob("distance_to_image_plane_*.npy"):
        depth = np.load(path)
        depth[:12] = nothing
        np.save(path, depth)
    arrays = brought_in(folder, tmp_path / "out").arrays
    assert not arrays["depth"][:, :12].any() and not arrays["depth_valid"][:, :12].any()
    assert arrays["depth_valid"][:, 12:].all()
    for name in ("flow_valid", "dz_valid", "visible", "moving"):
        assert not arrays[name][:, :12].any()
    assert not arrays["instance"][:, :12].any()


def test_cameras_sequences_and_triggers_are_clips_in_the_order_of_their_names(
    shot: Callable, write: Callable, tmp_path: Path
) -> None:
    made, other = shot("fall", "static", 11), shot("spin", "moving", 11)
    folder = tmp_path / "in"
    write(folder / "b", made, layout="shared folders", camera="Right")
    write(folder / "b", other, layout="shared folders", camera="Left")
    write(folder / "a", other, layout="camera folders", camera="Top")
    for path in write(folder / "c", made).iterdir():
        path.rename(path.with_name(path.name.replace("_000", "_12_000")))
    counts = import_replicator(folder, tmp_path / "out", fps=12, captions=["one", "two", "three", "four"])
    assert (counts.clips, counts.without_vectors, counts.without_segmentation) == (4, 0, 0)
    assert counts.nearest < made.truth.depth.min() * 1.001 and counts.farthest > other.truth.depth.max() * 0.999
    dataset = ClipDataset(tmp_path / "out")
    said = [(dataset.meta(i)["provenance"]["recording"], dataset.meta(i)["caption"]) for i in range(4)]
    assert said == [("a/Top", "one"), ("b/Left", "two"), ("b/Right", "three"), ("c/12", "four")]
    keys = [dataset.row(i)["key"] for i in range(4)]
    assert keys == sorted(keys) and len(set(keys)) == 4
    np.testing.assert_array_equal(dataset[0].arrays["depth"], dataset[1].arrays["depth"])
    assert dataset[2].arrays["depth"].sum() != dataset[1].arrays["depth"].sum()


def test_a_folder_may_have_the_name_of_an_annotator(shot: Callable, write: Callable, tmp_path: Path) -> None:
    sample = brought_in(write(tmp_path / "rgb", shot("fall", "static", 11)), tmp_path / "out")
    assert sample.meta["provenance"]["recording"] == "." and sample.arrays["flow_valid"].any()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_pictures_of_every_kind_become_rgb_of_eight_bits(
    shot: Callable, write: Callable, tmp_path: Path, mode: str
) -> None:
    made = shot("fall", "static", 11)
    folder = write(tmp_path / "in", made)
    grey = np.asarray(Image.fromarray(made.pictures[0]).convert("L"))
    for path in folder.glob("rgb_*.png"):
        image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
        if mode == "RGBA":
            image.putalpha(0)  # a renderer that leaves the background transparent still drew it
        image.save(path)
    video = brought_in(folder, tmp_path / "out").video
    assert np.abs(video.astype(int) - grey[None, ..., None]).mean() < 2


def test_the_same_recording_gives_the_same_bytes_and_a_sound_dataset_that_trains(
    shot: Callable, write: Callable, tmp_path: Path
) -> None:
    folder = write(tmp_path / "in", shot("fall", "static", 11))
    digests = set()
    for name in ("one", "two"):
        out = tmp_path / name
        assert main(["data", "import-replicator", str(folder), "--out", str(out), "--caption", "a ball falls"]) == 0
        digests.add(hashlib.sha256((out / "shard-000000.tar").read_bytes()).hexdigest())
        assert verify(out) == []
    assert len(digests) == 1
    clips = Clips(tmp_path / "one", TRUTH, WordEncoder())
    batch = clips.collate([0, 0], [(0,), (1,)])
    assert batch.video.shape == (2, 3, 6, 48, 48) and set(batch.arrays) == set(TRUTH)
