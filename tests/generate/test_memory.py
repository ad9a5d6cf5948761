"""`phys4d generate --dry-run`: the memory that is counted is that which real tensors take."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phys4d.cli import main
from phys4d.engine.costs.memory import Peak
from phys4d.engine.distributed.parallel import Parallel
from phys4d.generate.memory import Memory, count_memory
from phys4d.models import folder
from phys4d.models.interface import encode_first
from phys4d.models.placement import place


def test_the_count_is_what_real_tensors_take(tuned: Path) -> None:
    clip, counted = count_memory(str(tuned), None, None, "fp32", tiled=False)
    assert clip == (5, 64, 64)
    model = place(folder.load(tuned / "model-finetune").model.eval(), Parallel.alone())
    latents, text, sigma = torch.randn(1, 8, 2, 4, 4), torch.randn(1, 512, 32), torch.tensor([0.5])
    model.codec.decode(latents)  # reads its weights
    known = [latents, text, sigma, *model.parameters(), *model.buffers(), *model.codec.parameters()]
    for name, run in (
        ("encode", lambda: encode_first(model.codec, torch.rand(1, 3, 1, 64, 64), 5)),
        ("decode", lambda: model.codec.decode(latents)),
        ("read", lambda: model.heads(model.predict(latents, sigma, text).hidden, latents, sigma)),
    ):
        with torch.no_grad(), Peak(known) as peak:
            run()
        assert getattr(counted, name) == pytest.approx(peak.most, rel=0.02)
    assert counted.codec == sum(t.numel() * 4 for t in (*model.codec.parameters(), *model.codec.buffers()))


def test_what_is_on_the_device_at_once_by_hand() -> None:
    memory = Memory(text=10, transformer=9, codec=3, heads=1, block=2, evaluate=4, read=5, encode=2, decode=6)
    assert [memory.most(offload) for offload in ("none", "parts", "blocks")] == [19, 15, 10]
    reads_image = replace(memory, encode=12)
    assert [reads_image.most(offload) for offload in ("none", "parts", "blocks")] == [25, 15, 15]


def test_tiles_take_less(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, tiled = (count_memory(str(released), 1, (1024, 256), "fp32", tiled=tiled)[1] for tiled in (False, True))
    assert tiled.decode < 0.6 * whole.decode
    words = ("generate", "--model", str(released), "--dry-run", "--frames", "5", "--size")
    assert main([*words, "64"]) == 0
    assert "--offload parts: 0." in capsys.readouterr().out
    assert main([*words, "500"]) == 2
    assert "sides must be multiples of 32" in capsys.readouterr().err


@pytest.mark.slow
def test_a_card_of_24_gb_generates_with_the_published_model(capsys: pytest.CaptureFixture[str]) -> None:
    """24 GB are 22.4 GiB, of which the driver and the allocator take about one."""
    assert main(["generate", "--model", "wan2.2-ti2v-5b", "--dry-run", "--frames", "49", "--size", "480x832"]) == 0
    gib = dict(re.findall(r"--offload (\w+): ([\d.]+)", capsys.readouterr().out))
    assert gib == {"none": "20.3", "parts": "10.9", "blocks": "10.9"}


@pytest.mark.slow
def test_a_card_of_24_gb_generates_with_cogvideox(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", "cogvideox-5b", "--dry-run", "--frames", "49", "--size", "480x720"]) == 0
    gib = dict(re.findall(r"--offload (\w+): ([\d.]+)", capsys.readouterr().out))
    assert gib == {"none": "26.1", "parts": "15.8", "blocks": "15.8"}
