"""Several datasets in one stage: buckets of one size, weights, columns, an order that goes on with other batches."""

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from phys4d.caches.read import LatentCache
from phys4d.caches.source import source_of
from phys4d.cli import main
from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.mixture import Mixture, Part
from phys4d.models.interface import Grid
from phys4d.models.tiny.words import WordEncoder
from tests.engine.servers import web_server

ALONE = Parallel.alone()
SMALL, LARGE = 6, 4  # clips


@pytest.fixture(scope="module")
def two(write_clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six clips of 16 x 16 pixels, and four of 32 x 32."""
    folder = tmp_path_factory.mktemp("two")
    return write_clips(folder / "small", count=SMALL), write_clips(folder / "large", scale=2, count=LARGE)


def data(two: Sequence[Path], stage: str, *more: str) -> str:
    """The setting that mixes both in a stage; more: further keys of each."""
    parts = (f'{{folder="{folder}"{keys}}}' for folder, keys in zip(two, more or ("", ""), strict=True))
    return f"{stage}.data=[{', '.join(parts)}]"


def test_a_batch_holds_clips_of_one_size_and_all_are_drawn_equally_often(two: tuple[Path, Path]) -> None:
    clips = Clips([Part(folder) for folder in two], ("depth",), WordEncoder())
    drawn, sizes = Counter[str](), Counter[int]()
    for step in range(60):
        batch = clips.batch(3, ALONE, 0, "finetune", step)
        assert batch.video.shape[-1] == batch.arrays["depth"].shape[-1]
        sizes[batch.video.shape[-1]] += 1
        drawn.update(clips.latest)
    assert set(drawn) == {f"{two[i]}/clip{k}" for i, count in enumerate((SMALL, LARGE)) for k in range(count)}
    assert max(drawn.values()) - min(drawn.values()) <= 2 and sizes == {16: 36, 32: 24}
    assert [str(bucket) for bucket in clips.mixture.buckets] == ["5x16x16 at 24 fps", "5x32x32 at 24 fps"]


def test_weights_say_how_many_clips_come_from_each_dataset(two: tuple[Path, Path]) -> None:
    clips = Clips([Part(two[0], weight=1.0), Part(two[1], weight=3.0)], (), WordEncoder())
    sizes = Counter(clips.batch(2, ALONE, 0, "pretrain", step).video.shape[-1] for step in range(80))
    assert sizes == {16: 20, 32: 60}


def test_columns_choose_the_clips_that_take_part(two: tuple[Path, Path]) -> None:
    small = Part(two[0], where={"caption": ["a square slides 1", "a square slides 4"]})
    mixture = Mixture([small, Part(two[1], where={"height": [32]})], ())
    assert [mixture.place(i) for i in range(len(mixture))] == [
        *((mixture.datasets[0], k) for k in (1, 4)), *((mixture.datasets[1], k) for k in range(LARGE))
    ]  # fmt: skip
    assert np.array_equal(mixture.alike(0), [0, 1]) and mixture.read(1, pixels=False).key == "clip4"


class Cache:
    """In place of a cache: says which clip it was asked for, and whether its pixels were read."""

    @staticmethod
    def read(own: int, sample: Any) -> Any:
        return own, len(sample.video) > 0


def test_latents_are_read_where_all_parts_have_them_and_pixels_where_they_are_needed(two: tuple[Path, Path]) -> None:
    cache: Any = Cache()
    cached = Mixture([Part(two[0], cache=cache), Part(two[1], cache=cache)], ())
    found: Any = [cached.read(SMALL + 1, pixels=pixels) for pixels in (False, True)]
    assert cached.cached and found == [(1, False), (1, True)]
    half = Mixture([Part(two[0], cache=cache), Part(two[1])], ())
    assert not half.cached
    for pixels in (False, True):
        sample = half.read(1, pixels=pixels)
        assert sample.key == "clip1" and len(sample.video) == 5


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"colour": ["red"]}, "where: no column 'colour': expected caption, "),
        ({"caption": ["a cup falls"]}, "where: no clip has caption 'a cup falls': there are 'a square slides 0', "),
        ({"height": ["tall"]}, "where: height: expected numbers, got 'tall'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(two: tuple[Path, Path], where: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Mixture([Part(two[0], where=where)], ())
    assert str(caught.value).startswith(f"{two[0]}: {said}")


def test_a_clip_that_the_model_does_not_take_is_refused_by_its_size(two: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="clips of 5x16x16 at 24 fps: 16x16 pixels: sides must be multiples of 32 and"):
        Clips([Part(folder) for folder in two], (), WordEncoder(), Grid(5, 32, 32, (4, 32, 32)))


def test_a_bad_clip_is_replaced_by_one_of_its_size(
    write_clips: Callable[..., Path], two: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = write_clips(tmp_path / "bad", {1: {"mp4": b"no video"}}, count=SMALL)
    clips = Clips([Part(bad), Part(two[1])], (), WordEncoder(), on_bad="skip")
    for step in range(20):
        clips.batch(2, ALONE, 0, "pretrain", step)
    assert list(clips.skips.clips) == [f"{bad}/clip1"]
    assert clips.skips.clips[f"{bad}/clip1"].startswith(f"{bad}/shard-000000.tar: clip clip1: mp4 ")
    assert str(clips.skips) == f"1 of 10 clips skipped: {bad}/clip1"


def test_a_dataset_of_two_sizes_is_cached_whole(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ShardWriter(tmp_path / "both") as writer:
        for folder in two:
            one = ClipDataset(folder, arrays=())
            for row in map(one.row, range(len(one))):
                members = {name: one.member(row, name) for name in row["members"]}
                key = f"{folder.name}-{row['key']}"
                writer.add(key, members, row["frames"], row["fps"], row["height"], row["width"])
    assert main(["data", "encode", str(tmp_path / "both"), "--model", "tiny"]) == 0
    assert "latents of 192x2x4x4, 192x2x8x8 and text" in capsys.readouterr().out
    source = source_of("tiny")
    (codec, text), data = source.encoders(), tmp_path / "both"
    cache = LatentCache(data / "cache", ClipDataset(data, arrays=()), source.kind, source.origin(), "encode")
    cached, plain = Clips(data, ("depth",), text, encoded=cache), Clips(data, ("depth",), text)
    for step in range(6):
        one, other = (clips.batch(2, ALONE, 0, "finetune", step) for clips in (cached, plain))
        assert one.video.shape[2] == 0 and torch.equal(one.encoded(codec), other.encoded(codec))
        assert torch.equal(one.text, other.text) and torch.equal(one.arrays["depth"], other.arrays["depth"])


STAGES = ["backbone", "pretrain", "finetune", "reinforce"]
FOUR = tuple(f"{stage}.loop={{ steps = 4, log_every = 1, checkpoint_every = 2 }}" for stage in STAGES)


def test_stages_train_on_two_sizes_and_resume_to_the_same_bits(
    write_run: Callable[..., Path], two: tuple[Path, Path], tmp_path: Path, session: Callable[..., dict[str, Any]]
) -> None:
    """All four stages, the heads among them, meet both sizes."""
    changes = [*FOUR, *(data(two, stage) for stage in STAGES), "finetune.batch=2"]
    words = [word for change in changes for word in ("--set", change)]

    def run(name: str) -> Path:
        file = write_run(tmp_path / f"{name}.toml", tmp_path / name, two[0], STAGES)
        file.write_text(file.read_text().partition("[evaluate]")[0])
        return file

    whole = session("train", run("whole"), *words)
    assert whole["codes"] == [0], whole
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    for stage in STAGES:
        tokens = {round(line["speed.tokens"] / line["speed.clips"]) for line in lines if line["stage"] == stage}
        assert tokens == {8, 32}, (stage, tokens)
    for stage in STAGES[2:]:
        resume = ["--resume"] if (tmp_path / "killed").exists() else []
        killed = session("train", run("killed"), *words, *resume, kill={"stage": stage, "step": 3})
        assert killed["codes"] == [-signal.SIGKILL], killed
    assert session("train", run("killed"), *words, "--resume")["codes"] == [0]
    files = sorted((tmp_path / "whole").glob("model-*/**/*.safetensors"))
    assert len(files) == 11
    for path in files:
        expected, found = load_file(path), load_file(tmp_path / "killed" / path.relative_to(tmp_path / "whole"))
        assert all(torch.equal(found[name], expected[name]) for name in expected), path


def drawn(folder: Path, stage: str) -> list[list[str]]:
    """The global batches that sessions drew, one folder for each session: of each step the last session's."""
    steps: dict[int, dict[int, list[str]]] = {}
    for one in sorted(folder.iterdir(), key=lambda path: int(path.name)):
        own: dict[int, dict[int, list[str]]] = {}
        for file in one.glob(f"{stage}-*"):
            step, rank = map(int, file.name.removeprefix(f"{stage}-").split("-"))
            own.setdefault(step, {})[rank] = file.read_text().splitlines()
        steps |= own
    assert sorted(steps) == list(range(len(steps)))
    return [[name for rank in sorted(steps[step]) for name in steps[step][rank]] for step in range(len(steps))]


def check_epochs(batches: list[list[str]], two: Sequence[Path], samples: int) -> None:
    """Of each size, no clip is drawn twice while another waits; together as many as were asked for."""
    counts = {f"{folder}/clip{k}": 0 for folder, count in zip(two, (SMALL, LARGE), strict=True) for k in range(count)}
    for batch in batches:
        for name in batch:
            counts[name] += 1
        for folder in two:
            own = [count for name, count in counts.items() if name.startswith(f"{folder}/")]
            assert max(own) - min(own) <= 1
    assert samples <= sum(counts.values()) < samples + len(batches[-1])


def test_other_ranks_and_batches_continue_the_same_order(
    write_run: Callable[..., Path], two: tuple[Path, Path], tmp_path: Path, session: Callable[..., dict[str, Any]]
) -> None:
    """From 1 to 2 to 3 to 1 ranks, with another batch each, to a length in samples."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", two[0], ["backbone"])
    run.write_text(run.read_text().partition("[evaluate]")[0])
    settings = ["--set", data(two, "backbone"), "--set", "backbone.loop={samples=60, checkpoint_every=2, log_every=1}"]
    sessions = ((1, 4, 5), (2, 2, 9), (3, 6, 12), (1, 1, None))
    for number, (ranks, batch, stop) in enumerate(sessions):
        words = [*settings, "--set", f"backbone.batch={batch}", *(["--resume"] if number else [])]
        kill = {"kill": {"stage": "backbone", "step": stop}} if stop is not None else {}
        ended = session("train", run, *words, ranks=ranks, drawn=str(tmp_path / "drawn" / str(number)), **kill)
        assert ended["codes"] == [0 if stop is None else -signal.SIGKILL] * ranks, ended
    batches = drawn(tmp_path / "drawn", "backbone")
    check_epochs(batches, two, 60)
    assert [len(batch) for batch in batches[:12]] == [4, 4, 4, 4, 2, 2, 2, 2, 6, 6, 6, 6] and len(batches[-1]) == 1


def test_a_stage_trains_on_a_dataset_behind_a_url_as_on_a_folder(
    write_run: Callable[..., Path], two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = []
    with web_server(two[0].parent) as server:
        for name, place in (("local", str(two[0])), ("remote", f"{server.url}/small")):
            run = write_run(tmp_path / f"{name}.toml", tmp_path / name, two[0], ["backbone"])
            run.write_text(run.read_text().partition("[evaluate]")[0])
            words = ["--set", f'backbone.data="{place}"']
            assert main(["train", str(run), *words]) == 0, capsys.readouterr().err
            (file,) = (tmp_path / name / "model-backbone" / "transformer").glob("*.safetensors")
            weights.append(load_file(file))
            assert f'data = "{place}"' in (tmp_path / name / "config.toml").read_text()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert main(["train", str(tmp_path / "remote.toml"), "--set", 'backbone.data="ftp://host/x"', "--dry-run"]) == 2
    assert "backbone.data: ftp://host/x: ftp is not read: expected a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_twenty_kills_at_any_moment_lose_and_repeat_no_sample(
    write_run: Callable[..., Path], two: tuple[Path, Path], tmp_path: Path, session: Callable[..., dict[str, Any]]
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", two[0], ["backbone"])
    run.write_text(run.read_text().partition("[evaluate]")[0])
    settings = ["--set", data(two, "backbone"), "--set", "backbone.loop={samples=2400, checkpoint_every=3}"]
    draw, kills, number = random.Random(7), 0, 0
    while True:
        ranks, batch = draw.choice([(1, 4), (2, 6), (3, 12), (2, 2), (1, 1)])
        words = [*settings, "--set", f"backbone.batch={batch}"]
        words += ["--resume"] if (tmp_path / "out" / "config.toml").exists() else []
        where, every = str(tmp_path / "drawn" / str(number)), list(range(ranks))
        chaos = {"signal": int(signal.SIGKILL), "ranks": every, "after": draw.uniform(0.2, 2.0)}
        ended = session("train", run, *words, ranks=ranks, drawn=where, **({"chaos": chaos} if kills < 20 else {}))
        number += 1
        if ended["codes"] == [0] * ranks:
            break
        assert set(ended["codes"]) == {-signal.SIGKILL}, ended
        kills += 1
    batches = drawn(tmp_path / "drawn", "backbone")
    check_epochs(batches, two, 2400)
    assert kills == 20, f"the run ended after {kills} kills: lengthen it"
