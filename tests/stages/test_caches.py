"""Caches of latents and text: training from one is training without, to the bit; another model's is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phys4d.caches import write
from phys4d.caches.card import read_card
from phys4d.caches.lookup import find_cache
from phys4d.caches.packing import packed, padded, trimmed, unpacked
from phys4d.caches.read import LatentCache
from phys4d.caches.source import Source
from phys4d.caches.write import encode_dataset
from phys4d.cli import main
from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.models.interface import encode_clips, from_bytes
from phys4d.models.wan.codec import WanCodec
from phys4d.models.wan.text import UMT5Encoder

ALONE = Parallel.alone()
TINY = Source("tiny", None)
Session = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def cached(large_clips: Path, released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large clips with the cache of the small Wan in them."""
    folder = shutil.copytree(large_clips, tmp_path_factory.mktemp("cached") / "clips")
    assert main(["data", "encode", str(folder), "--model", str(released)]) == 0
    return folder


@pytest.fixture(scope="module")
def tiny_cached(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small clips with the cache of the tiny model in them."""
    folder = shutil.copytree(clips, tmp_path_factory.mktemp("cached") / "clips")
    assert main(["data", "encode", str(folder), "--model", "tiny"]) == 0
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor that a stage wrote."""
    return {f"{path}:{name}": t for path in sorted(folder.rglob("*.safetensors")) for name, t in load_file(path).items()}


def equal(first: Path, second: Path) -> bool:
    """Whether two model folders hold the same bits."""
    one, two = weights(first), weights(second)
    return len(one) == len(two) and all(map(torch.equal, one.values(), two.values())) and len(one) > 0


def test_a_cache_holds_what_the_encoders_give(cached: Path, released: Path) -> None:
    """Clip by clip, in fp32; the tokens of UMT5, which computes in bf16, in bf16, up to the caption's length."""
    cache = find_cache(cached, None, "required", Source("wan", released))
    assert cache is not None and cache.card.latents == (8, 2, 4, 4) and cache.card.text == (512, 32)
    codec, text = WanCodec(released / "vae"), UMT5Encoder(released / "text_encoder", released / "tokenizer")
    data = ClipDataset(cached, arrays=())
    for index in (0, 5):
        sample = cache.read(index, data.read(index, video=False))
        assert sample.video.shape == (0, 64, 64, 3) and sample.key == f"clip{index}"
        video = from_bytes(torch.from_numpy(data[index].video[None]))
        assert sample.latents.dtype == torch.float32 and torch.equal(sample.latents, codec.encode(video)[0])
        assert sample.text.dtype == torch.bfloat16 and sample.text.shape == (4, 32)
        assert torch.equal(padded(sample.text, 512), text([sample.meta["caption"]])[0])


def test_packing_loses_nothing_and_trims_zeros_alone() -> None:
    values = torch.randn(3, 4)
    assert torch.equal(unpacked("latents", packed("latents", values, "fp32")), values)
    rounded = unpacked("latents", packed("latents", values, "bf16"))
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, values.bfloat16())
    assert unpacked("text", packed("text", values.bfloat16().float(), "fp32")).dtype == torch.bfloat16
    tokens = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert trimmed(tokens).shape == (2, 2) and torch.equal(padded(trimmed(tokens), 4), tokens)
    assert trimmed(torch.zeros(4, 2)).shape == (0, 2)
    with pytest.raises(ValueError, match="not finite"):
        packed("latents", torch.tensor([float("nan")]), "fp32")


@pytest.fixture
def no_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the autoencoder nor the text encoder may be read."""
    monkeypatch.setattr(UMT5Encoder, "model", property(lambda self: pytest.fail("text encoder was read")))
    monkeypatch.setattr(WanCodec, "encode", lambda self, video: pytest.fail("a clip was encoded"))


def released_run(folder: Path, data: Path, stages: list[str], init: Path, *more: str) -> list[str]:
    """The arguments of `phys4d train` for stages of the small Wan, 5 steps each but those of reinforce."""
    from tests.stages.conftest import RELEASED

    text = RELEASED.format(folder=folder, data=data, stages=json.dumps(stages), init=init).partition("[evaluate]")[0]
    path = folder.with_suffix(".toml")
    path.write_text(text)
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
    decoded: list[str] = []
    member = ClipDataset.member
    monkeypatch.setattr(ClipDataset, "member", lambda self, row, name, most=None: (
        decoded.append(name), member(self, row, name, most)
    )[1])  # fmt: skip
    if stage != "reinforce":
        monkeypatch.setattr(WanCodec, "vae", property(lambda self: pytest.fail("the autoencoder was read")))
        monkeypatch.setattr("phys4d.stages.dataset_checks.WHOLE", 2)
    arguments = released_run(tmp_path / "run", cached, [stage], before[stage], "finetune.batch=4")
    decoded.clear()
    assert main(arguments) == 0
    assert f"{stage}: latents and text from {cached / 'cache'} (fp32)\n" in capsys.readouterr().err
    assert equal(tmp_path / "run" / f"model-{stage}", without / f"model-{stage}")
    assert (decoded.count("latents") > 0) and decoded.count("json") > 0
