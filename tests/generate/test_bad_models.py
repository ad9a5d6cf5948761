"""Every published kind beside every input that it cannot take: one line, exit code 2, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from phys4d.cli import main
from phys4d.models.lora_file import DIFFUSERS_WEIGHTS
from phys4d.models.registry import MODELS
from tests.published_folders import write_cogvideox, write_published, write_wan21  # noqa: F401 (fixtures)

KINDS = ("wan", "wan21-image", "cogvideox-image", "opensora")  # each reads a first frame
RANK = 2


@pytest.fixture(scope="module")
def folders(write_published: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    root = tmp_path_factory.mktemp("sound")
    return {kind: write_published(kind, root / kind) for kind in KINDS}


@pytest.fixture
def refused(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line for a kind's folder or another model, with options that replace sound ones; no clip is there."""

    def run(kind: str, model: Path | None = None, **changes: object) -> str:
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "first.png")
        words = {"image": tmp_path / "first.png", "prompt": "a red ball", "frames": 9, "size": 32} | changes
        options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        out = tmp_path / "clip"
        assert main(["generate", "--model", str(model or folders[kind]), *options, "--out", str(out)]) == 2
        assert not out.exists()
        error = capsys.readouterr().err
        assert error.startswith("phys4d: error: ") and error.count("\n") == 1, error
        return error

    return run


def linked(folder: Path, to: Path) -> Path:
    """A copy of a folder whose files are links, to be replaced one by one."""
    for path in folder.rglob("*"):
        if path.is_file():
            place = to / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return to


def rewritten(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def lora(kind: str, folder: Path, to: Path, *, ranks: tuple[int, int] = (RANK, RANK)) -> Path:
    """A LoRA on every target of a kind's transformer, of these ranks of A and B."""
    name = kind.partition("-")[0]
    backbone = MODELS[name].load(folder, (0,)).backbone
    tensors = {}
    for path, module in backbone.transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and path.endswith(tuple(f".{t}" for t in backbone.lora_targets)):
            tensors[f"transformer.{path}.lora_A.weight"] = torch.zeros(ranks[0], module.in_features)
            tensors[f"transformer.{path}.lora_B.weight"] = torch.zeros(module.out_features, ranks[1])
    to.mkdir()
    save_file(tensors, to / DIFFUSERS_WEIGHTS)
    return to


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_key_layout(folders: dict[str, Path], refused: Any, tmp_path: Path, kind: str) -> None:
    model = linked(folders[kind], tmp_path / "model")
    for path in (model / "transformer").glob("*.safetensors"):
        tensors = load_file(path)
        path.unlink()
        save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, path)
    for path in (model / "transformer").glob("*.index.json"):
        table = json.loads(path.read_text())
        table["weight_map"] = {f"model.{name}": file for name, file in table["weight_map"].items()}
        rewritten(path, json.dumps(table))
    line = refused(kind, model)
    assert "/model/transformer" in line and "of its config.json has: is it of this model?" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_shard(folders: dict[str, Path], refused: Any, tmp_path: Path, kind: str) -> None:
    model = linked(folders[kind], tmp_path / "model")
    gone = sorted((model / "transformer").glob("*.safetensors"))[-1]
    gone.unlink()
    line = refused(kind, model)
    assert gone.name in line and "download" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_another_class(folders: dict[str, Path], refused: Any, tmp_path: Path, kind: str) -> None:
    model = linked(folders[kind], tmp_path / "model")
    path = model / "transformer" / "config.json"
    other = {"_class_name": "LTXVideoTransformer3DModel", "architectures": ["LTXVideoTransformer3DModel"]}
    rewritten(path, json.dumps(json.loads(path.read_text()) | other))
    line = refused(kind, model)
    assert "is no run, no model folder of a stage, and no published model" in line
    assert "its transformer is LTXVideoTransformer3DModel" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_of_another_model_or_rank(folders: dict[str, Path], refused: Any, tmp_path: Path, kind: str) -> None:
    other = "wan" if kind in ("cogvideox-image", "opensora") else "cogvideox-image"
    line = refused(kind, lora=lora(other, folders[other], tmp_path / "other"))
    assert line.startswith("phys4d: error: --lora: ") and "lora_A" in line
    line = refused(kind, lora=lora(kind, folders[kind], tmp_path / "rank", ranks=(RANK, RANK + 1)))
    assert line.startswith("phys4d: error: --lora: ") and "lora_" in line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": "ball " * 600}, "prompt: 60"),
        ({"negative": "ball " * 600}, "negative: 60"),
        ({"frames": 6}, "--frames 6 --size 32x32: 6 frames: this codec takes 1 + k * EVERY, such as "),
        ({"size": 40}, "--frames 9 --size 40x40: 40x40 pixels"),
        ({"image": "wide"}, "wide.png: 32x64 pixels, the clip is 32x32, of another aspect"),
    ],
    ids=["prompt", "negative", "frames", "sides", "aspect"],
)
def test_a_request_that_the_model_cannot_take(
    refused: Any, tmp_path: Path, kind: str, change: dict[str, Any], line: str
) -> None:
    Image.fromarray(np.full((32, 64, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    change = change | ({"image": tmp_path / "wide.png"} if "image" in change else {})
    assert line.replace("EVERY", "8" if kind.startswith("cogvideox") else "4") in refused(kind, **change)
