"""`phys4d data encode`: what a cache holds, stops and damage, and caches that are of other clips."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.caches import write
from phys4d.caches.lookup import find_cache
from phys4d.caches.packing import packed, stacked, trimmed, unpacked
from phys4d.caches.read import LatentCache
from phys4d.caches.source import Source
from phys4d.caches.write import encode_dataset
from phys4d.cli import main
from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.tools.rank_shards import NOTES
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.interface import encode_for_cache

ALONE = Parallel.alone()
TINY = Source("tiny", None)


def test_packing_loses_nothing_and_trims_zeros_alone() -> None:
    values = torch.randn(3, 4)
    assert torch.equal(unpacked("latents", packed("latents", values, "fp32")), values)
    rounded = unpacked("latents", packed("latents", values, "bf16"))
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, values.bfloat16())
    assert unpacked("text", packed("text", values.bfloat16().float(), "fp32")).dtype == torch.bfloat16
    tokens = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert trimmed(tokens).shape == (2, 2) and torch.equal(stacked([trimmed(tokens)], (4, 2), "cpu")[0], tokens)
    assert trimmed(torch.zeros(4, 2)).shape == (0, 2)
    with pytest.raises(ValueError, match="not finite"):
        packed("latents", torch.tensor([float("nan")]), "fp32")


def other_clips(write_clips: Callable[..., Path], folder: Path, cache: Path, **changes: Any) -> Path:
    """Other clips with a cache that is not theirs."""
    shutil.copytree(cache, write_clips(folder, **changes) / "cache")
    return folder


def test_a_cache_of_other_clips_is_refused_with_the_clip(
    write_clips: Callable[..., Path], tiny_cached: Path, clips: Path, tmp_path: Path
) -> None:
    found, cache = ClipDataset(clips), tiny_cached / "cache"
    mp4 = found.member(found.row(2), "mp4")
    caption = json.dumps({**found[5].meta, "caption": "a square rests"}).encode()
    cases = [
        ({"replaced": {3: {"mp4": mp4}}}, "clip clip3 of {} has changed since: another mp4"),
        ({"replaced": {5: {"json": caption}}}, "clip clip5 of {} has changed since: another json"),
        ({"count": 7}, "is of 8 clips, {} holds 7"),
        ({"scale": 2}, "is of clips of 5x16x16, those of {} are 5x32x32"),
    ]
    for number, (changes, what) in enumerate(cases):
        folder = other_clips(write_clips, tmp_path / f"{number}", cache, **changes)
        with pytest.raises(UserError) as refused:
            find_cache(folder, None, "auto", TINY)
        what = what.format(folder)
        advice = f"remove it, and `phys4d data encode {folder} --model tiny` writes another"
        assert f"{refused.value}" == f"{folder}/cache: {what}: {advice}"
    truth = found.member(found.row(2), "truth")
    same = other_clips(write_clips, tmp_path / "same", cache, replaced={3: {"truth": truth}})
    assert find_cache(same, None, "auto", TINY) is not None  # what no encoder sees may change
    with pytest.raises(UserError, match='is of a model of kind "tiny", this one is "wan"'):
        LatentCache(cache, ClipDataset(tiny_cached), "wan", {}, "advice")


def test_a_run_finds_a_cache_or_says_that_there_is_none(
    refused: Callable[..., str], clips: Path, tiny_cached: Path, write_run: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cache = tiny_cached / "cache"
    advice = f"`phys4d data encode {clips} --model tiny"
    assert refused(clips, "cache=required") == f"backbone.latents: {clips}/cache: no such cache: {advice}` writes it"
    named = refused(clips, 'backbone.latents="none"')
    assert named == f"backbone.latents: none: no such cache: {advice} --out none` writes it"
    (tmp_path / "empty").mkdir()
    assert "this is no cache" in refused(clips, f'evaluate.latents="{tmp_path / "empty"}"')
    said = {
        f'backbone.latents="{cache}"': f"latents and text from {cache} (fp32)",
        'cache="off"': 'every step encodes its clips (cache = "off")',
        'cache="auto"': f"every step encodes its clips (no cache; {advice}` writes one)",
    }
    for number, (change, line) in enumerate(said.items()):
        run = write_run(tmp_path / "run.toml", tmp_path / f"{number}", clips, ["backbone"])
        shorter = ("--set", "backbone.loop.steps=1", "--set", "evaluate.scenes=2")
        assert main(["train", str(run), "--set", change, *shorter]) == 0
        assert f"backbone: {line}\n" in capsys.readouterr().err


def test_bf16_is_half_and_a_caption_is_stored_once_a_shard(
    write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    """Six of 66 clips have the caption of the first one of all; every shard of two clips holds it at most once."""
    meta = json.dumps(ClipDataset(write_clips(tmp_path / "one", count=1))[0].meta).encode()
    data = write_clips(tmp_path / "clips", {number: {"json": meta} for number in (1, 2, 3, 40, 41, 65)}, count=66)
    encode_dataset(data, tmp_path / "fp32", TINY, ALONE)
    encode_dataset(data, tmp_path / "bf16", TINY, ALONE, dtype="bf16")
    entries = ClipDataset(tmp_path / "fp32", arrays=())
    rows = [entries.row(index) for index in range(66)]
    assert len({row["shard"] for row in rows}) == 33
    texts = [(row["shard"], row["members"]["text"]["offset"]) for row in rows]
    assert len(set(texts)) == 66 - 3 and texts[0] == texts[1] and texts[2] == texts[3] and texts[40] == texts[41]
    data_set = ClipDataset(data)
    caches = [find_cache(data, tmp_path / name, "auto", TINY) for name in ("fp32", "bf16")]
    for index in (0, 65):
        full, half = (cache.read(index, data_set[index]) for cache in caches if cache is not None)
        assert half.latents.nbytes * 2 == full.latents.nbytes and torch.equal(half.latents, full.latents.bfloat16())
        assert torch.equal(half.text, full.text.bfloat16()) and half.nbytes < full.nbytes


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a cache but what states where and when it was written."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in ("cache.json", "manifest.json")}


def test_an_encoder_that_is_stopped_goes_on_and_writes_the_same_bytes(
    clips: Path, tiny_cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = write.write_member, [0]

    def failing(*arguments: Any) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 10:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(write, "write_member", failing)
    out = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(clips, out, TINY, ALONE)
    assert not out.exists()
    with pytest.raises(UserError, match="begun with other settings"):
        encode_dataset(clips, out, TINY, ALONE, dtype="bf16")
    monkeypatch.setattr(write, "write_member", real)
    encoded: list[int] = []
    monkeypatch.setattr(write, "encode_for_cache", lambda *given: (encoded.append(1), encode_for_cache(*given))[1])
    encode_dataset(clips, out, TINY, ALONE)
    assert len(encoded) == 8 - 4 and content(out) == content(tiny_cached / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    with pytest.raises(UserError, match="exists and is not empty"):
        encode_dataset(clips, out, TINY, ALONE)


def test_a_damaged_cache_is_named(tiny_cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(tiny_cached / "cache", tmp_path / "cache")
    assert main(["data", "verify", str(folder)]) == 0
    entries = ClipDataset(folder, arrays=())
    row = entries.row(3)
    with open(folder / row["shard"], "r+b") as shard:
        shard.seek(row["members"]["latents"]["offset"] + 300)
        shard.write(b"\xff")
    brief = f"{row['shard']}: clip clip3: latents differs from its digest in the index"
    capsys.readouterr()
    assert main(["data", "verify", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"{brief}\n" and "1 problems: write this cache again" in captured.err
    data = ClipDataset(tiny_cached)
    cache = find_cache(tiny_cached, folder, "auto", TINY)
    assert cache is not None
    with pytest.raises(ClipFault) as fault:
        cache.read(3, data[3])
    assert fault.value.brief == brief
    assert cache.read(2, data[2]).latents.shape == (192, 2, 4, 4)
    card = folder / "cache.json"
    card.write_text(card.read_text().replace('"frames": 5', '"frames": 9'))
    with pytest.raises(UserError, match=r"cache.json: is damaged, its SHA-256 is not that in manifest.json: write the"):
        find_cache(tiny_cached, folder, "auto", TINY)


def test_a_cache_serves_chosen_clips_of_its_dataset(tiny_cached: Path) -> None:
    folder, every = tiny_cached / "cache", ClipDataset(tiny_cached, arrays=())
    where = {"caption": ["a square slides 6", "a square slides 2", "a square slides 7"]}
    chosen = ClipDataset(tiny_cached, arrays=(), where=where)
    assert chosen.keys().to_pylist() == ["clip2", "clip6", "clip7"]
    whole, part = (LatentCache(folder, data, "tiny", {}, "advice") for data in (every, chosen))
    for index, number in enumerate((2, 6, 7)):
        assert torch.equal(part.read(index, chosen[index]).latents, whole.read(number, every[number]).latents)


def test_clips_that_cannot_be_encoded_are_left_out_and_replaced_as_without_a_cache(
    write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_clips(tmp_path / "clips", {2: {"mp4": b"\0\0\0\x18ftypisom" + bytes(60)}})
    with pytest.raises(ClipFault, match="clip clip2: mp4"):
        encode_dataset(data, tmp_path / "stopped", TINY, ALONE)
    card = encode_dataset(data, data / "cache", TINY, ALONE, on_bad="skip")
    assert card is not None and list(card.bad) == ["clip2"]
    codec, text = TINY.encoders()
    cache = find_cache(data, None, "auto", TINY)
    plain, read = (Clips(data, ("depth",), text, on_bad="skip", encoded=one) for one in (None, cache))
    for step in range(4):
        one, two = (source.batch(4, ALONE, 0, "finetune", step) for source in (plain, read))
        assert torch.equal(one.encoded(codec), two.encoded(codec)) and plain.latest == read.latest
    assert plain.skips.clips == read.skips.clips and list(read.skips.clips) == ["clip2"]
    with pytest.raises(ClipFault, match="clip clip2: mp4"):
        Clips(data, (), text, encoded=cache).batch(8, ALONE, 0, "finetune", 0)


@pytest.mark.slow
def test_two_ranks_and_a_kill_write_the_bytes_of_one_rank(
    session: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_clips(tmp_path / "clips", count=130)
    whole = session("data", "encode", data, "--model", "tiny", "--out", tmp_path / "one")
    assert whole["codes"] == [0], whole["errors"]
    command = [sys.executable, "-m", "phys4d", "data", "encode", str(data), "--model", "tiny", "--out"]
    partial = tmp_path / ".killed.partial" / NOTES
    with subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(partial.glob("shard-*.json"))) < 4:
            time.sleep(0.002)
        process.kill()
    assert 4 <= len(list(partial.glob("shard-*.json"))) < 44 and not (tmp_path / "killed").exists()
    for name in ("killed", "two"):
        ended = session("data", "encode", data, "--model", "tiny", "--out", tmp_path / name, ranks=2)
        assert ended["codes"] == [0, 0], ended["errors"]
        assert content(tmp_path / name) == content(tmp_path / "one")


@pytest.mark.slow
def test_a_bad_clip_of_one_rank_ends_both_with_one_line(
    session: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_clips(tmp_path / "clips", {3: {"mp4": b"\0\0\0\x18ftypisom" + bytes(60)}})
    ended = session("data", "encode", data, "--model", "tiny", ranks=2)
    assert ended["codes"] == [2, 2]
    lines = [line for error in ended["errors"] for line in error.splitlines() if "error" in line]
    assert len(lines) == 1 and "clip clip3: mp4 cannot be decoded" in lines[0]
