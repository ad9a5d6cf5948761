"""Two bad clips among a hundred: refused before the run or at their step with nothing lost, or skipped and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.bad_clips import Place, Replacing, most_bad
from phys4d.clips import TRUTH, Clips
from phys4d.engine.data.clip import blob, video
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.sampler import Course, Order
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.tiny.words import WordEncoder

FRAMES, SIZE = 5, 16
ALONE = Parallel.alone()
K = [[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]
META = {"caption": "a square", "intrinsics": [K] * FRAMES}
BAD = (37, 61)  # neither is among the clips that are decoded before a run


def arrays_of(**changed: np.ndarray) -> dict[str, np.ndarray]:
    depth = np.full((FRAMES, SIZE, SIZE), 2.0, np.float32)
    known = {name: np.ones((FRAMES - 1, SIZE, SIZE), bool) for name in ("flow_valid", "dz_valid", "visible", "moving")}
    motion = np.zeros((3, FRAMES - 1, SIZE, SIZE), np.float32)
    stored = {"depth": depth, "motion": motion, "depth_valid": np.ones_like(depth, bool), **known}
    return stored | {"instance": np.ones_like(depth, np.uint8)} | changed


def with_value(name: str, value: float) -> dict[str, bytes]:
    """Arrays with one pixel of this value, stored as plain float32, as another writer may do it."""
    array = arrays_of()[name].copy()
    array[..., 1, 2, 3] = value
    return {"truth": blob.encode(arrays_of(**{name: array}))}


def meta_with(**changed: Any) -> dict[str, bytes]:
    kept = {name: value for name, value in (META | changed).items() if value is not None}
    return {"json": json.dumps(kept).encode()}


SOUND = {
    "mp4": video.encode_mp4(np.full((FRAMES, SIZE, SIZE, 3), 90, np.uint8), 24),
    "truth": blob.encode(arrays_of(), blob.QUANTISATION),
    "json": json.dumps(META).encode(),
}
FAULTS: dict[str, tuple[dict[str, bytes], str, bool]] = {
    # members, fault, whether it is found before a run without decoding
    "depth of another shape": (
        {"truth": blob.encode(arrays_of(depth=np.ones((FRAMES, SIZE, SIZE // 2), np.float32)))},
        "truth array 'depth': shape [5, 16, 8], expected [5, 16, 16]", True,
    ),
    "mask of another dtype": (
        {"truth": blob.encode(arrays_of(visible=np.ones((FRAMES - 1, SIZE, SIZE), np.uint8)))},
        "truth array 'visible': dtype uint8, expected bool", True,
    ),
    "no intrinsics": (meta_with(intrinsics=None), "json has no intrinsics", True),
    "intrinsics of zero": (
        meta_with(intrinsics=[[[0, 0, 0]] * 3] * FRAMES),
        "json intrinsics: expected focal lengths of 0.001 to 1e+07 px, got 0", True,
    ),
    "pose that scales": (
        meta_with(camera_to_world=np.diag([2.0, 2, 2, 1])[None].repeat(FRAMES, 0).tolist()),
        "json camera_to_world: expected rotations, got a matrix that scales", True,
    ),
    "caption that is a number": (meta_with(caption=7), "json caption: expected text, got 7", True),
    "caption that is a list": (meta_with(caption=["a", "b"]), "json caption: expected text, got a list", True),
    "other number of frames": (meta_with(frames=6), "json frames: is 6, the index says 5", True),
    "json that is no object": ({"json": b"[1]"}, "json is a list, expected an object", True),
    "depth NaN": (with_value("depth", np.nan), "truth array 'depth': 1 values are not finite", False),
    "depth zero": (
        with_value("depth", 0), "truth array 'depth': 1 pixels of frame 1 are 0 m, but valid in 'depth_valid'", False,
    ),
    "depth negative": (with_value("depth", -2), "truth array 'depth': 1 values are negative, the lowest -2 m", False),
    "motion NaN": (with_value("motion", np.nan), "truth array 'motion': 3 values are not finite", False),
    "motion infinite": (with_value("motion", np.inf), "truth array 'motion': 3 values are not finite", False),
    "mp4 too short": (
        {"mp4": video.encode_mp4(np.full((FRAMES - 1, SIZE, SIZE, 3), 90, np.uint8), 24)},
        "mp4 holds 4 frames, expected frames 0..4", False,
    ),
}  # fmt: skip


@pytest.fixture
def hundred(tmp_path: Path) -> Callable[..., Path]:
    """Writes a hundred clips of which those of `BAD` have other members."""

    def write(members: dict[str, bytes], bad: tuple[int, ...] = BAD) -> Path:
        with ShardWriter(tmp_path / "data") as writer:
            for clip in range(100):
                writer.add(f"clip{clip}", SOUND | (members if clip in bad else {}), FRAMES, 24, SIZE, SIZE)
        return tmp_path / "data"

    return write


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_refused_where_it_is_seen_with_the_clip(
    hundred: Callable[..., Path], refused: Callable[..., str], name: str
) -> None:
    members, fault, early = FAULTS[name]
    data = hundred(members)
    where = f"shard-000000.tar: clip clip{BAD[0]}: "
    found = verify(data)
    assert len(found) == 2 and all(f"clip clip{clip}: " in line for clip, line in zip(BAD, found, strict=True))
    if "mp4" not in members:
        assert found[0].startswith(where + fault)
    with pytest.raises(ClipFault) as caught:
        Clips(data, TRUTH, WordEncoder()).batch(100, ALONE, 0, "finetune", 0)
    assert str(caught.value).startswith(f"{data}/shard-000000.tar: clip clip") and fault in str(caught.value)
    line = refused(data, "check_clips=all", stages=["backbone", "pretrain", "finetune"], words=("--dry-run",))
    assert f"clip clip{BAD[0]}: " in line and fault in line
    if early:
        assert refused(data, stages=["backbone", "pretrain", "finetune"], words=("--dry-run",)) == line


def test_a_bad_clip_is_replaced_by_the_same_one_in_any_run(hundred: Callable[..., Path]) -> None:
    data = hundred(FAULTS["depth NaN"][0])
    source = Clips(data, TRUTH, WordEncoder(), on_bad="skip")
    taken = {}
    for step in range(10):
        source.batch(10, ALONE, 3, "finetune", step)
        order = Course(Order(3, [0] * 100)).batch(step, 10)
        for place, (index, key) in enumerate(zip(order, source.latest, strict=True)):
            assert (key == f"clip{index}") == (index not in BAD)
            taken[step, place] = key
    assert sorted(source.skips.clips) == [f"clip{clip}" for clip in BAD]
    again = Clips(data, TRUTH, WordEncoder(), on_bad="skip")
    for step in (9, 4):  # another order of asking, as after a resume, and the parts of two ranks
        for rank in range(2):
            pair = Pair(rank)
            again.batch(10, pair, 3, "finetune", step)
            assert again.latest == tuple(taken[step, place] for place in range(5 * rank, 5 * rank + 5))


class Pair(Parallel):
    """A rank of two, without collectives."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, 2, torch.device("cpu"))

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, value: Any) -> list[Any]:
        return [value]


def test_replacements_depend_on_the_place_and_end(hundred: Callable[..., Path]) -> None:
    places = [Place(0, (seed, "finetune", step, place)) for seed in (0, 1) for step in (0, 1) for place in (0, 1)]
    drawn = [tuple(place.replacements(range(100))) for place in places]
    assert len(set(drawn)) == len(places) and drawn[0] == tuple(places[0].replacements(range(100)))
    read: list[int] = []

    def none(index: int) -> Sample:
        read.append(index)
        raise ClipFault(Path("data"), f"clip{index}", f"clip clip{index}: it is bad")

    with pytest.raises(UserError, match=r"^data: \d+ of 100 clips cannot be used, at most 5 are .*; one is clip "):
        Replacing(Path("data"), none, 100, "skip")[places[0]]
    assert read == list(dict.fromkeys([0, *drawn[0]]))  # each is read once
    assert [most_bad(count) for count in (1, 8, 19, 40, 1000)] == [1, 1, 1, 2, 50]


def test_more_bad_clips_than_stated_end_the_run(hundred: Callable[..., Path], refused: Callable[..., str]) -> None:
    data = hundred(FAULTS["caption that is a number"][0], bad=tuple(range(20, 26)))
    line = refused(data, "backbone.on_bad=skip", stages=["backbone"])
    said = f"{data}: 6 of 100 clips cannot be used, at most 5 are skipped (max_bad = 0.05); one is shard-000000.tar: "
    assert line.startswith(said)
    source = Clips(data, (), WordEncoder(), on_bad="skip")
    with pytest.raises(UserError, match="6 of 100 clips cannot be used, at most 5 are skipped"):
        for step in range(10):
            source.batch(10, ALONE, 0, "backbone", step)
    more = Clips(data, (), WordEncoder(), on_bad="skip", max_bad=0.06)
    for step in range(10):
        more.batch(10, ALONE, 0, "backbone", step)
    assert len(more.skips.clips) == 6


def test_a_caption_that_the_encoder_does_not_take_is_skipped(hundred: Callable[..., Path]) -> None:
    data = hundred(meta_with(caption="a " * 40))
    source = Clips(data, (), WordEncoder(), on_bad="skip")
    batch = source.batch(100, ALONE, 0, "backbone", 0)
    assert sorted(source.skips.clips) == [f"clip{clip}" for clip in BAD] and len(batch.text) == 100
    with pytest.raises(UserError, match=f"{data}/clip clip.*: caption of 40 words: this encoder takes 32"):
        Clips(data, (), WordEncoder()).batch(100, ALONE, 0, "backbone", 0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_loses_nothing_or_skips_and_counts(
    hundred: Callable[..., Path],
    write_run: Callable[..., Path],
    session: Callable[..., dict[str, Any]],
    tmp_path: Path,
    ranks: int,
) -> None:
    """On two ranks, each meets its own bad clip."""
    data = hundred(FAULTS["mp4 too short"][0])
    run = write_run(tmp_path / "run.toml", tmp_path / "out", data, ["backbone"])
    steps = ("--set", "backbone.batch=20", "--set", "backbone.loop.steps=5")
    stopped = session("train", run, *steps, ranks=ranks)
    order = [index for step in range(5) for index in Course(Order(0, [0] * 100)).batch(step, 20)]
    first = min(order.index(clip) for clip in BAD)
    assert stopped["codes"] == [2] * ranks
    assert f"clip clip{order[first]}: mp4 holds 4 frames" in "".join(stopped["errors"])
    assert "".join(stopped["errors"]).count("phys4d: error: ") == 1
    finished = first // 20
    assert finished > 0
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == [f"checkpoint-backbone-{finished}"]
    resumed = session("train", run, *steps, "--set", "backbone.on_bad=skip", "--resume", ranks=ranks)
    assert resumed["codes"] == [0] * ranks, resumed
    assert resumed["errors"][0].count(f"clip clip{BAD[0]}: mp4 holds 4 frames") == 1
    assert f"backbone: 2 of 100 clips skipped: clip{BAD[0]}, clip{BAD[1]}" in resumed["errors"][0]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    noted = {line["skipped_clip"]: line["step"] for line in lines if "skipped_clip" in line}
    assert noted == {f"clip{clip}": 1 + order.index(clip) // 20 for clip in BAD}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["skipped_clips"]["backbone"]) == set(noted)


def test_what_is_sound_is_found_sound(hundred: Callable[..., Path]) -> None:
    data = hundred({})
    assert verify(data) == []
    assert ClipDataset(data, required=("caption",))[5].meta["caption"] == "a square"
