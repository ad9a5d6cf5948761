"""Batches of clips: read ahead of the step that takes them, the same in any order of asking, captions encoded once."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.sampler import Course, Order
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models.tiny.words import WordEncoder

ALONE = Parallel.alone()


class Counted(WordEncoder):
    """An encoder that notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __call__(self, captions: Sequence[str]) -> Tensor:
        self.asked += captions
        return super().__call__(captions)


def test_the_wait_for_clips_is_counted(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding is held back until the clock of the wait, advanced by hand, has passed seven seconds."""
    source, clock = Clips(clips, ("depth",), WordEncoder(), cache_bytes=0), [0.0]
    monkeypatch.setattr("phys4d.engine.training.telemetry.time.perf_counter", lambda: clock[0])
    decode = ClipDataset.read

    def late(dataset: ClipDataset, index: int, *, video: bool) -> object:
        clock[0] = 7.0
        return decode(dataset, index, video=video)

    monkeypatch.setattr(ClipDataset, "read", late)
    source.batch(2, ALONE, 3, "finetune", 0)
    assert source.waited.seconds == 7.0


def test_the_next_steps_clips_are_decoded_while_a_step_runs(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Clips(clips, ("depth",), WordEncoder(), cache_bytes=0)
    read, enough, wanted = [], threading.Event(), [6]
    decode = ClipDataset.read

    def noted(dataset: ClipDataset, index: int, *, video: bool) -> object:
        assert threading.current_thread() is not threading.main_thread()
        read.append(index)
        if len(read) == wanted[0]:
            enough.set()
        return decode(dataset, index, video=video)

    monkeypatch.setattr(ClipDataset, "read", noted)
    for step in range(3):
        batch = source.batch(2, ALONE, 3, "finetune", step)
        assert batch.rng_keys == [(3, "finetune", step, place) for place in range(2)]
        assert enough.wait(20)  # before the next call of `batch`
        assert sorted(read) == sorted(i for s in range(step + 3) for i in Course(Order(3, [0] * 8)).batch(s, 2))
        enough.clear()
        wanted[0] += 2


def test_any_order_of_asking_gives_the_same_clips(clips: Path) -> None:
    straight = Clips(clips, ("depth",), WordEncoder())
    batches = [straight.batch(3, ALONE, 1, "finetune", step) for step in range(5)]
    for steps in ([4, 3, 0], [2, 2, 3]):
        other = Clips(clips, ("depth",), WordEncoder())
        for step in steps:
            got = other.batch(3, ALONE, 1, "finetune", step)
            other.batch(2, ALONE, 1, "another order", step)
            assert torch.equal(got.video, batches[step].video) and torch.equal(got.text, batches[step].text)


@pytest.mark.parametrize("short", [0, 1])
def test_clips_stay_in_memory_where_all_of_them_fit(clips: Path, short: int) -> None:
    room = 8 * Clips(clips, ("depth",), WordEncoder()).sample(0).nbytes
    source = Clips(clips, ("depth",), WordEncoder(), cache_bytes=room - short)
    first = [source.sample(index) for index in range(8)]
    assert all((source.sample(index) is first[index]) == (not short) for index in range(8))


def test_a_caption_is_encoded_once_and_as_if_alone(clips: Path) -> None:
    text = Counted()
    source = Clips(clips, (), text)
    for step in range(6):
        batch = source.batch(4, ALONE, 0, "backbone", step)
    assert sorted(text.asked) == sorted(f"a square slides {seed}" for seed in range(8))
    captions = [f"a square slides {i}" for i in Course(Order(0, [0] * 8)).batch(5, 4)]
    assert torch.equal(batch.text, WordEncoder()(captions))


def test_encoded_captions_keep_to_their_room(clips: Path) -> None:
    text = Counted()
    size = text([""])[0].nbytes
    source = Clips(clips, (), text, text_bytes=3 * size)
    text.asked.clear()
    for which in ([0, 1, 2], [0], [3], [0, 2, 3], [1]):  # 1 is the one that was used least lately when 3 comes
        source.collate(which, [(0, place) for place in which])
    assert text.asked == [f"a square slides {i}" for i in (0, 1, 2, 3, 1)]


HELD = """
import sys, time
from phys4d.engine.data.dataset import ClipDataset
read = ClipDataset.read

def held(dataset, index, *, video=True):
    if index == 3:
        time.sleep(1000)
    return read(dataset, index, video=video)

def main():
    from phys4d import cli
    from phys4d.stages import runner
    trained = runner.train
    def train(*given, **options):
        ClipDataset.read = held  # behind the checks before the run
        trained(*given, **options)
    runner.train = train
    sys.exit(cli.main())

main()
"""


def test_a_disk_that_does_not_answer_ends_the_process_with_the_clip(
    clips: Path, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """The thread that reads it cannot be ended, and is not waited for."""
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone"])
    words = ["train", str(run), "--set", "timeouts.step=2", "--set", "backbone.loop.steps=20"]
    ended = subprocess.run([sys.executable, "-c", HELD, *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"phys4d: error: {clips}/shard-000000.tar: clip clip3: not read in 2 s (timeouts.step): ")
    assert list((tmp_path / "out").glob("checkpoint-backbone-*"))
