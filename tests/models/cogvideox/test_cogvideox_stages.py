"""All phases on a tiny CogVideoX: they train, resume, are read again, and give a stock pipeline the same video."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file

from phys4d.cli import main
from phys4d.engine.data.clip import blob, video
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.cogvideox.backbone import CogVideoXBackbone
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.placement import place
from tests.models.by_heart import policy_losses, repeated
from tests.models.trained_lora import add_lora
from tests.stages.conftest import enlarged, sliding_square
from tests.stages.released_run import run_text

FRAMES, SIDE = 9, 32


def longer(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    """With its last frame repeated up to `length`."""
    rest = length - array.shape[axis]
    return np.concatenate([array, array.take([-1], axis).repeat(rest, axis)], axis)


@pytest.fixture(scope="session")
def nine_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 9 frames of 32 x 32 pixels: a square slides, then rests."""
    root = tmp_path_factory.mktemp("data") / "nine"
    with ShardWriter(root) as writer:
        for seed in range(4):
            frames, arrays = sliding_square(seed)
            frames = enlarged(longer(frames, 0, FRAMES), (1, 2), 2)
            between = {"motion", "flow_valid", "dz_valid", "visible", "moving"}
            for name, array in arrays.items():
                axis = 1 if name == "motion" else 0
                whole = longer(array, axis, FRAMES - 1 if name in between else FRAMES)
                arrays[name] = enlarged(whole, (-2, -1), 2)
            arrays["motion"][:, 4:] = 0
            arrays["motion"][:2] *= 2
            arrays["moving"][4:] = False
            meta = {
                "caption": "a red square slides", "fps": 24, "frames": FRAMES, "height": SIDE, "width": SIDE,
                "intrinsics": [[[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]] * FRAMES, "depth_kind": "metric",
            }  # fmt: skip
            members = {
                "mp4": video.encode_mp4(frames, 24), "truth": blob.encode(arrays, blob.QUANTISATION),
                "json": json.dumps(meta).encode(),
            }  # fmt: skip
            writer.add(f"clip{seed}", members, FRAMES, 24, SIDE, SIDE)
    return root


@pytest.fixture
def write(nine_frames: Path, cogvideox: Path, tmp_path: Path) -> Callable[..., Path]:
    def made(name: str, data: Path = nine_frames) -> Path:
        run = tmp_path / f"{name}.toml"
        longer_finetune = {"loop": {"steps": 3, "checkpoint_every": 1}}
        text = run_text(
            tmp_path / name, cogvideox, data, kind="cogvideox", evaluate={}, finetune=longer_finetune,
            reinforce={"loop": {"steps": 1}},
        )  # fmt: skip
        run.write_text(text)
        return run

    return made


def weights(root: Path) -> dict[str, torch.Tensor]:
    files = [path for path in sorted(root.rglob("*.safetensors")) if "model-" in str(path)]
    return {f"{path.relative_to(root)}:{name}": t for path in files for name, t in sorted(load_file(path).items())}


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_all_phases_train_and_are_evaluated_and_resume_to_the_bit(
    write: Callable[..., Path], session: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """One run whole, one killed within `finetune` and resumed, its activations computed again."""
    ended = session("train", write("whole"))
    assert ended["codes"] == [0], ended["errors"]
    losses = [line["loss"] for line in logged(tmp_path / "whole") if "loss" in line]
    assert len(losses) == 5 and all(map(np.isfinite, losses))
    table = json.loads((tmp_path / "whole" / "evaluation" / "reinforce.json").read_text())
    assert np.isfinite(table["means"]["absrel"]) and np.isfinite(table["means"]["reward"])
    again = ("train", write("again"), "--set", "checkpointing=full")
    assert session(*again, kill={"stage": "finetune", "step": 2})["codes"] == [-9]
    ended = session(*again, "--resume")
    assert ended["codes"] == [0], ended["errors"]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert one.keys() == two.keys() and len(one) > 10
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("cogvideox", ["image"], indirect=True)
def test_two_ranks_train_as_one_from_a_cache(
    write: Callable[..., Path], session: Callable[..., dict[str, Any]], nine_frames: Path, cogvideox: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """One rank encodes at each step; two read the cache, and each holds half of the weights."""
    data = shutil.copytree(nine_frames, tmp_path / "data")
    assert main(["data", "encode", str(data), "--model", str(cogvideox)]) == 0
    stages = ("--set", 'stages=["pretrain","finetune"]', "--set", "evaluate.scenes=2")
    assert session("train", write("one"), "--set", "cache=off", *stages)["codes"] == [0]
    ended = session("train", write("two", data), "--set", "cache=required", *stages, ranks=2)
    assert ended["codes"] == [0, 0], ended["errors"]
    one, two = (
        {name: [line[name] for line in logged(tmp_path / run) if name in line] for name in ("loss", "diffusion_loss")}
        for run in ("one", "two")
    )
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5) and len(one["diffusion_loss"]) == 3
    assert one["diffusion_loss"] == pytest.approx(two["diffusion_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cogvideox", ["text", "image"], indirect=True)
def test_ranks_that_divide_a_clip_train_as_one(
    write: Callable[..., Path], session: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Twelve tokens of video and ten of text over two ranks, activations computed again; of `reinforce` one update."""
    assert session("train", write("one"), "--set", "evaluate.scenes=2")["codes"] == [0]
    one = logged(tmp_path / "one")
    for stage, before in (("pretrain", None), ("finetune", "pretrain"), ("reinforce", "finetune")):
        changes = [f'stages=["{stage}"]', "parallel={context=2}", "checkpointing=full", "evaluate.scenes=2"]
        if before is not None:
            changes.append(f'init="{tmp_path / "one" / f"model-{before}"}"')
        ended = session("train", write(stage), *(w for change in changes for w in ("--set", change)), ranks=2)
        assert ended["codes"] == [0, 0], ended["errors"]
        steps = [line for line in one if line["stage"] == stage and "grad_norm" in line]
        found = [line for line in logged(tmp_path / stage) if "grad_norm" in line]
        assert len(found) == len(steps) == {"pretrain": 2, "finetune": 3, "reinforce": 1}[stage]
        for ours, expected in zip(found, steps, strict=True):
            names = ["reward", "reward_group_std", "kl", "ratio"]  # its loss is a small rest of ratios
            if stage != "reinforce":
                names = [name for name in expected if name.endswith("loss")]
            assert len(names) > 2, expected
            for name in (*names, "grad_norm"):
                assert ours[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), (stage, name)


def test_a_trained_model_is_read_again_and_its_adapter_gives_a_stock_transformer_our_output(
    cogvideox: Path, tmp_path: Path
) -> None:
    config = ModelConfig(kind="cogvideox", taps=(0, 2))
    model = place(folder.released(cogvideox, config, (FRAMES, SIDE, SIDE)).model, Parallel.alone())
    add_lora(model, "finetune")
    draw = torch.Generator().manual_seed(3)
    folder.save(model, tmp_path / "model-finetune", stage="finetune", base=cogvideox)
    x, first = torch.randn(1, 4, 3, 4, 4, generator=draw), torch.randn(1, 4, 1, 4, 4, generator=draw)
    text, sigma = model.text(["a ball"]), model.backbone.process.table[[400]].float()
    again = place(folder.load(tmp_path / "model-finetune").model, Parallel.alone())
    with torch.no_grad():
        ours = model.predict(x, sigma, text, first)
        assert torch.equal(again.predict(x, sigma, text, first).velocity, ours.velocity)
        stock = CogVideoXTransformer3DModel.from_pretrained(cogvideox / "transformer")
        backbone = CogVideoXBackbone(stock, (), image_scale=model.codec.image_scale)
        before = backbone(x, sigma, text, first).velocity
        adapters = tmp_path / "model-finetune" / "adapters" / "finetune"
        stock.load_lora_adapter(
            str(adapters), weight_name="pytorch_lora_weights.safetensors", use_safetensors=True
        )
        after = backbone(x, sigma, text, first).velocity
    assert (before - ours.velocity).abs().max() > 1e-2
    torch.testing.assert_close(after, ours.velocity, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cogvideox", ["image"], indirect=True)
def test_every_phase_learns_a_batch_by_heart(cogvideox: Path, nine_frames: Path) -> None:
    """`reinforce` learns drawn steps: those of one sample become likelier by a fifth, those of the other less so."""
    config = ModelConfig(kind="cogvideox", taps=(0, 2), heads=HeadConfig(width=8))
    model = place(folder.released(cogvideox, config, (FRAMES, SIDE, SIDE)).model, Parallel.alone())
    data = {"data": nine_frames, "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": 1}}
    losses = repeated(model, "pretrain", data | {"batch": 2}, 30)
    assert losses[-1] < 0.6 * losses[0]
    losses = repeated(model, "finetune", data | {"batch": 2, "rank": 8}, 40)
    assert losses[-1] < 0.7 * losses[0]

    losses = policy_losses(model, data, 20)
    assert losses[0] == pytest.approx(0, abs=1e-4) and losses[-1] < -0.15
