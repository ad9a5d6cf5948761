"""The decoder of a run: named in the run file, printed once, recorded, and never replaced by another in silence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.clips import Clips
from phys4d.engine.data.decoders import choice
from phys4d.engine.data.decoders.interface import Unservable
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.tiny.words import WordEncoder


class Picky(PyAVDecoder):
    """PyAV under another name, which does not serve clips of one brightness.

    refused: reason, for every clip or for none.
    """

    name, version, together = "dali", "9", 3

    def __init__(self, refused: str | None = None) -> None:
        self.refused = refused
        self.batches: list[int] = []

    def refusal(self, video):
        return self.refused

    def decode_many(self, requests, *, normalised=False):
        self.batches.append(len(requests))
        if self.refused:
            return [Unservable(self.refused) for _ in requests]
        return super().decode_many(requests, normalised=normalised)


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> Picky:
    """In place of DALI, as if it were installed."""
    stand_in = Picky()
    monkeypatch.setattr(choice, "absence", lambda name: None)
    monkeypatch.setattr(choice, "DECODERS", {**choice.DECODERS, "dali": lambda device: stand_in})
    return stand_in


def test_an_absent_decoder_ends_before_anything_starts(
    refused: Callable[..., str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choice._MODULES, "torchcodec", "torchcodec_is_not_here")
    what = "torchcodec is not installed (No module named 'torchcodec_is_not_here')"
    line = f'decoder = "torchcodec": {what}: {choice.INSTALL["torchcodec"]}, or set "auto"'
    assert refused(clips, "decoder=torchcodec") == line
    assert not (tmp_path / "out").exists()
    unknown = refused(clips, "decoder=ffmpeg")
    expected = "expected 'auto', 'pyav', 'dali' or 'torchcodec', got \"ffmpeg\""
    assert unknown == f"--set decoder=ffmpeg: decoder: {expected}"


def test_a_decoder_that_does_not_serve_the_clips_ends_before_anything_starts(
    refused: Callable[..., str], clips: Path, tmp_path: Path, picky: Picky
) -> None:
    picky.refused = "DALI takes 4:2:0 with 8 bits (yuv420p), it is yuv444p"
    where = f"{clips}/shard-000000.tar: clip clip0"
    line = f'decoder = "dali": {where}: {picky.refused}: set decoder = "auto"'
    assert refused(clips, "decoder=dali") == line
    assert not (tmp_path / "out").exists()


def test_a_clip_that_is_not_served_is_never_skipped(clips: Path, picky: Picky) -> None:
    source = Clips(clips, (), WordEncoder(), on_bad="skip")
    picky.refused = "its edit list hides 2 frames, which DALI would show"
    source.decode_by(picky)
    with pytest.raises(UserError, match=r'decoder = "dali": .*clip clip\d: its edit list .*: set decoder = "auto"'):
        source.batch(2, Parallel.alone(), 0, "backbone", 0)
    assert not source.skips.clips


def test_the_clips_are_those_of_the_chosen_decoder(clips: Path, picky: Picky) -> None:
    source, reference = Clips(clips, (), WordEncoder()), Clips(clips, (), WordEncoder())
    source.decode_by(picky)
    batch = source.batch(4, Parallel.alone(), 0, "backbone", 0)
    assert np.array_equal(batch.video, reference.batch(4, Parallel.alone(), 0, "backbone", 0).video)
    assert len(picky.batches) >= 4


def test_a_run_prints_and_records_its_decoder_once(
    write_run: Callable[..., Path], clips: Path, tmp_path: Path, picky: Picky, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, ["backbone", "pretrain"])
    line = "dali 9 (h264, yuv444p, BT.601, limited range)"
    assert main(["train", str(run), "--set", "decoder=dali"]) == 0
    printed = capsys.readouterr().err
    assert printed.count("decoder: ") == 1 and f"backbone: decoder: {line}\n" in printed
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["decoder"] == line
    assert picky.batches
