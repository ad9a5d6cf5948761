"""Training from a cache is training without, to the bit; a cache of another model is refused."""

import json
import shutil
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phys4d.caches.lookup import find_cache
from phys4d.caches.packing import NO_CAPTION, stacked
from phys4d.caches.source import Source
from phys4d.cli import main
from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.integrity import MANIFEST
from phys4d.models.interface import from_bytes
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan.text import UMT5Encoder
from phys4d.models.world import WorldModel
from phys4d.stages import handover
from tests.stages.released_run import run_text

ALONE = Parallel.alone()


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor that a stage wrote."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{path}:{name}": tensor for path in files for name, tensor in sorted(load_file(path).items())}


def equal(first: Path, second: Path) -> bool:
    """Whether two model folders hold the same bits."""
    one, two = weights(first), weights(second)
    return len(one) == len(two) and all(map(torch.equal, one.values(), two.values())) and len(one) > 0


def test_a_cache_holds_what_the_encoders_give(cached: Path, released: Path) -> None:
    """Clip by clip, in fp32; the tokens of UMT5, which computes in bf16, in bf16, up to the caption's length."""
    cache = find_cache(cached, None, "required", Source("wan", released))
    assert cache is not None and cache.card.latents == {(5, 64, 64): (8, 2, 4, 4)} and cache.card.text == (512, 32)
    codec, text = WanCodec(released / "vae"), UMT5Encoder(released / "text_encoder", released / "tokenizer")
    data = ClipDataset(cached, arrays=())
    for index in (0, 5):
        sample = cache.read(index, data.read(index, video=False))
        assert sample.video.shape == (0, 64, 64, 3) and sample.key == f"clip{index}"
        video = from_bytes(torch.from_numpy(data[index].video[None]))
        assert sample.latents.dtype == torch.float32 and torch.equal(sample.latents, codec.encode(video)[0])
        assert sample.text.dtype == torch.bfloat16 and sample.text.shape == (4, 32)
        assert torch.equal(stacked([sample.text], (512, 32), "cpu"), text([sample.meta["caption"]]))


@pytest.fixture
def no_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the autoencoder nor the text encoder may be read."""
    monkeypatch.setattr(UMT5Encoder, "model", property(lambda self: pytest.fail("text encoder was read")))
    monkeypatch.setattr(WanCodec, "encode", lambda self, video: pytest.fail("a clip was encoded"))


def released_run(folder: Path, data: Path, stages: list[str], init: Path, *more: str) -> list[str]:
    """The arguments of `phys4d train` for stages of the small Wan, 5 steps each but those of reinforce."""
    path = folder.with_suffix(".toml")
    path.write_text(run_text(folder, init, data, stages=stages))
    steps = [f"{stage}.loop.steps=5" for stage in ("pretrain", "finetune")]
    return ["train", str(path), *(word for change in (*steps, *more) for word in ("--set", change))]


@pytest.fixture(scope="module")
def without(cached: Path, released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages of the small Wan that encodes its clips in every step."""
    folder = tmp_path_factory.mktemp("without") / "run"
    stages = ["pretrain", "finetune", "reinforce"]
    assert main(released_run(folder, cached, stages, released, 'cache="off"', "finetune.batch=4")) == 0
    return folder


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "reinforce"])
def test_a_stage_from_a_cache_is_the_stage_without_to_the_bit(
    stage: str, without: Path, cached: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, no_encoders: None,
) -> None:  # fmt: skip
    """No weight of the text encoder is read and no clip encoded; the autoencoder is read by what decodes, alone."""
    before = {"pretrain": released, "finetune": without / "model-pretrain", "reinforce": without / "model-finetune"}
    if stage != "reinforce":
        monkeypatch.setattr(WanCodec, "vae", property(lambda self: pytest.fail("the autoencoder was read")))
    arguments = released_run(tmp_path / "run", cached, [stage], before[stage], "finetune.batch=4")
    assert main(arguments) == 0
    said = f"latents and text from {cached / 'cache'} (fp32)"
    assert f"{stage}: {said}\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["latents"] == {stage: said}
    assert equal(tmp_path / "run" / f"model-{stage}", without / f"model-{stage}")


NO_CAPTIONS = ("finetune.caption_dropout=0.5", "reinforce.guidance=4.5")


def test_no_caption_comes_from_a_cache_to_the_bit(
    cached: Path, released: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Dropped captions and guidance, with the tokens of an empty caption, which Wan was trained with."""
    stages = ["pretrain", "finetune", "reinforce"]
    assert main(released_run(tmp_path / "without", cached, stages, released, 'cache="off"', *NO_CAPTIONS)) == 0
    request.getfixturevalue("no_encoders")
    assert main(released_run(tmp_path / "with", cached, stages, released, *NO_CAPTIONS)) == 0
    for stage in stages:
        assert equal(tmp_path / "with" / f"model-{stage}", tmp_path / "without" / f"model-{stage}"), stage


@pytest.mark.parametrize(("change", "off"), [*zip(NO_CAPTIONS, (0, 1), strict=True)])
def test_a_cache_of_an_earlier_version_has_no_caption_left_out(
    cached: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, off: int
) -> None:
    data = tmp_path / "data"
    shutil.copytree(cached, data)
    folder = data / "cache"
    without_no_caption(folder)
    arguments = released_run(tmp_path / "run", data, ["pretrain", "finetune", "reinforce"], released, change)
    assert main(arguments) == 2
    key = change.partition("=")[0].partition(".")[2]
    line = f"{change.replace('=', ': ')}: {folder}, of an earlier version, lacks the tokens of an empty caption"
    advice = f"remove it and write it again, or set {key} to {off}"
    assert capsys.readouterr().err.splitlines()[-1] == f"phys4d: error: {line}: {advice}"
    assert main([*arguments, "--set", 'cache="off"', "--dry-run"]) == 0


def without_no_caption(folder: Path) -> None:
    """A cache as an earlier version wrote it."""
    (folder / NO_CAPTION).unlink()
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][NO_CAPTION]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_pixels_are_read_for_a_reward_alone(cached: Path, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truth is read in any case; a batch with pixels is that of a reader without a cache."""
    encoder = UMT5Encoder(released / "text_encoder", released / "tokenizer")
    cache = find_cache(cached, None, "auto", Source("wan", released))
    clips, plain = Clips(cached, ("depth",), encoder, encoded=cache), Clips(cached, ("depth",), encoder)
    expected = plain.batch(4, ALONE, 0, "reinforce", 0)
    read: list[str] = []
    member = ClipDataset.member

    def noted(self: ClipDataset, row: dict[str, Any], name: str, most: int | None = None) -> bytes:
        read.append(name)
        return member(self, row, name, most)

    monkeypatch.setattr(ClipDataset, "member", noted)
    clips.fetch(4, ALONE, 0, "reinforce", 0)
    batch = clips.batch(4, ALONE, 0, "reinforce", 0)
    assert set(read) == {"truth", "json", "latents", "text"} and batch.video.shape == (4, 3, 0, 64, 64)
    with_pixels = clips.batch(4, ALONE, 0, "another order", 0, pixels=True)
    again = plain.batch(4, ALONE, 0, "another order", 0)
    assert torch.equal(with_pixels.video, again.video) and torch.equal(with_pixels.text, again.text)
    assert torch.equal(batch.text, expected.text) and torch.equal(batch.arrays["depth"], expected.arrays["depth"])
    codec = WanCodec(released / "vae")
    assert torch.equal(batch.encoded(codec), expected.encoded(codec)) and batch.latents is not None
    part = batch.split(3)[1]
    assert part.latents is not None and torch.equal(part.latents[0], batch.latents[3])
    assert with_pixels.take([2]).encoded(codec).shape == (1, 8, 2, 4, 4)


def change_weights(part: str) -> Callable[[Path], None]:
    """Changes one number in the middle of a part's first file of weights."""

    def change(wan: Path) -> None:
        path = sorted((wan / part).glob("*.safetensors"))[0]
        tensors = load_file(path)
        name = sorted(tensors)[len(tensors) // 2]
        tensors[name].view(-1)[0] += 1
        save_file(tensors, path)

    return change


def change_vocabulary(wan: Path) -> None:
    path = wan / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"red"', '"blue"'))


OTHER_MODELS = [
    (change_weights("vae"), "was computed by another codec ("),
    (change_weights("text_encoder"), "was computed by another text encoder ("),
    (change_vocabulary, "was computed by another tokenizer ("),
]


@pytest.mark.parametrize(("change", "what"), OTHER_MODELS, ids=["codec", "text encoder", "tokenizer"])
def test_a_cache_of_another_model_is_refused_before_a_run(
    change: Callable[[Path], None], what: str, cached: Path, released: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wan = shutil.copytree(released, tmp_path / "wan")
    change(wan)
    assert main([*released_run(tmp_path / "run", cached, ["pretrain"], wan), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"phys4d: error: pretrain.latents: {cached / 'cache'}: {what}") and error.count("\n") == 1
    assert error.endswith(f": remove it, and `phys4d data encode {cached} --model {wan}` writes another\n")


def test_a_run_with_caches_needs_no_weights_of_the_text_encoder(
    cached: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wan = shutil.copytree(released, tmp_path / "wan")
    for path in (wan / "text_encoder").glob("model*"):
        path.unlink()
    measured = f'evaluate={{data="{cached}", scenes=2, samples=1, shown=1, batch=2}}'
    run = released_run(tmp_path / "run", cached, ["pretrain"], wan, measured, "pretrain.loop.steps=1")
    assert main([*run, "--set", 'cache="off"', "--dry-run"]) == 2
    assert f"{wan}/text_encoder/model.safetensors: no such file" in capsys.readouterr().err
    assert main(["data", "encode", str(cached), "--model", str(wan), "--out", str(tmp_path / "cache")]) == 2
    assert f"{wan}/text_encoder/model.safetensors: no such file" in capsys.readouterr().err
    assert main(run) == 0
    assert (tmp_path / "run" / "evaluation" / "pretrain.json").exists()


def test_a_model_is_released_when_its_stage_ends(
    write_run: Callable[..., Path], tiny_cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are its codec and text encoder, where they were read: nothing else refers to them."""
    models: list[weakref.ref[WorldModel]] = []
    made, finish, ends = WorldModel.__init__, handover.finish, []

    def noted(self: WorldModel, *arguments: Any) -> None:
        made(self, *arguments)
        models.append(weakref.ref(self))

    def finished(*arguments: Any) -> None:
        ends.append([model() for model in models])
        finish(*arguments)

    monkeypatch.setattr(WorldModel, "__init__", noted)
    monkeypatch.setattr(handover, "finish", finished)
    run = write_run(tmp_path / "run.toml", tmp_path / "out", tiny_cached, ["backbone", "pretrain"])
    run.write_text(run.read_text().partition("[evaluate]")[0])
    assert main(["train", str(run)]) == 0
    assert ends == [[None], [None, None]]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_stages_that_are_killed_and_resumed_with_a_cache_end_with_the_same_bits(
    ranks: int, session: Callable[..., dict[str, Any]], write_run: Callable[..., Path], tiny_cached: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """On as many ranks: without a cache; with one, killed in the middle; and without, killed, and resumed with one."""
    every = ["backbone", "pretrain", "finetune", "reinforce"]
    off = ("--set", 'cache="off"')

    def train(name: str, *words: str, **options: Any) -> Path:
        path = write_run(tmp_path / f"{name}.toml", tmp_path / name, tiny_cached, every)
        path.write_text(path.read_text().partition("[evaluate]")[0])
        checkpoints = [word for stage in every for word in ("--set", f"{stage}.loop.checkpoint_every=1")]
        ended = session("train", path, *checkpoints, *words, ranks=ranks, **options)
        assert ended["codes"] == [-signal.SIGKILL if "kill" in options else 0] * ranks, ended["errors"]
        return tmp_path / name

    plain = train("plain", *off)
    for name, first in (("cached", ()), ("switched", off)):
        train(name, *first, kill={"stage": "finetune", "step": 2})
        train(name, "--resume")
        for stage in every:
            assert equal(tmp_path / name / f"model-{stage}", plain / f"model-{stage}"), (name, stage)
