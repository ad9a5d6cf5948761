"""The model that a run starts from is looked at before training and by --dry-run, alike, and nothing is left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phys4d.cli import main
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.lora import add_adapter
from phys4d.models.preflight import HEADS
from phys4d.models.world import create_model

Refused = Callable[..., str]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9999999\n"


@pytest.fixture
def refused(write_run: Callable[..., Path], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line that `phys4d train` and `phys4d train --dry-run` both end with; no run folder was made."""

    def start(init: Path | None, *changes: str, stages: tuple[str, ...] = ("pretrain",)) -> str:
        run = write_run(tmp_path / "run.toml", tmp_path / "out", clips, list(stages), init)
        lines = []
        for words in (["--dry-run"], []):
            capsys.readouterr()
            sets = [word for change in changes for word in ("--set", change)]
            assert main(["train", str(run), *words, *sets]) == 2
            captured = capsys.readouterr()
            assert captured.out == "" and captured.err.count("\n") == 1
            lines.append(captured.err.removeprefix("phys4d: error: ").rstrip("\n"))
        assert lines[0] == lines[1] and not (tmp_path / "out").exists()
        return lines[0]

    return start


def test_a_pointer_in_the_place_of_weights(refused: Refused, released: Path, tmp_path: Path) -> None:
    wan = shutil.copytree(released, tmp_path / "wan")
    file = wan / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_text(POINTER)
    line = f"{file}: is a git-lfs pointer, no weights: run `git lfs pull` in {wan / 'vae'}"
    assert refused(wan, "model.kind=wan") == line


def test_a_model_of_another_family(refused: Refused, tmp_path: Path) -> None:
    for part in ("transformer", "vae", "text_encoder", "tokenizer"):
        (tmp_path / "other" / part).mkdir(parents=True)
    config = tmp_path / "other" / "transformer" / "config.json"
    config.write_text(json.dumps({"_class_name": "LTXVideoTransformer3DModel", "num_layers": 30, "patch_size": 2}))
    expected = "expected WanTransformer3DModel, got LTXVideoTransformer3DModel: only Wan2.2-TI2V is taken"
    assert refused(tmp_path / "other", "model.kind=wan") == f"{config}: _class_name: {expected}"
    config.write_text(json.dumps({"_class_name": "CogVideoXTransformer3DModel"}))
    expected = f"{tmp_path / 'other'} is a released model of the kind of CogVideoX-5B: set model.kind = \"cogvideox\""
    assert refused(tmp_path / "other", "model.kind=wan") == f'model.kind: "wan", but {expected}'


def test_a_kind_that_init_does_not_hold(refused: Refused, released: Path) -> None:
    line = (
        f'model.kind: "tiny", but {released} is a released model of the kind of Wan2.2-TI2V-5B: '
        'set model.kind = "wan"'
    )
    assert refused(released) == line
    line = 'model.kind: "wan" without init: name the folder of the released model as init'
    assert refused(None, "model.kind=wan", stages=("backbone",)) == line


def test_taps_beyond_the_blocks_of_a_released_transformer(refused: Refused, released: Path) -> None:
    line = "model.taps: [0, 3]: the transformer has blocks 0 to 2"
    assert refused(released, "model.kind=wan", "model.taps=[0, 3]") == line


def test_clips_that_a_released_model_does_not_take(refused: Refused, released: Path, clips: Path) -> None:
    line = f"pretrain.data: {clips}: clips of 16x16 pixels: sides must be multiples of 32 and 32"
    assert refused(released, "model.kind=wan") == line


def test_a_model_of_ours_whose_files_are_damaged(refused: Refused, tmp_path: Path) -> None:
    model, base, given = (
        create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0), tmp_path / "base", tmp_path / "m"
    )  # fmt: skip
    model_folder.save(model, base, stage="backbone", base=None)
    add_adapter(model.backbone.transformer, "finetune", 2, 0, targets=model.backbone.lora_targets)
    model_folder.save(model, given, stage="finetune", base=base)
    heads = (given / HEADS).read_bytes()
    (given / HEADS).write_bytes(heads[:-4])
    what = f"{given / HEADS}: is {len(heads) - 4} bytes long, its header says {len(heads)}"
    line = f"{given}: weights do not load ({what}): delete it and resume its run"
    assert refused(given, stages=("reinforce",)) == line
    (given / HEADS).write_bytes(heads)
    shutil.rmtree(base)
    moved = (
        f"{base / 'transformer' / 'config.json'}: no such file: the folder that holds the backbone was moved or removed"
    )
    assert refused(given, stages=("reinforce",)) == moved


def test_training_from_a_released_folder_prints_its_own_lines_alone(
    session: Callable[..., dict[str, Any]], write_released_run: Callable[..., Path], tmp_path: Path
) -> None:
    """No progress bars and warnings of the libraries that load and train it stand between them."""
    stages = ["pretrain", "finetune"]
    run = write_released_run(tmp_path / "run.toml", tmp_path / "run", stages)
    run.write_text(run.read_text().partition("[evaluate]")[0])
    sets = ["precision=bf16", *(f"{stage}.loop.steps=1" for stage in stages)]
    ended = session("train", run, *(word for change in sets for word in ("--set", change)))
    assert ended["codes"] == [0], ended["errors"]
    lines = ended["errors"][0].splitlines()
    assert len(lines) >= 2 and not [line for line in lines if not line.startswith(("pretrain: ", "finetune: "))]
