"""What is read of a run is what was written: one flipped bit in any file of a checkpoint or a model is found."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from phys4d.cli import main
from phys4d.engine.errors import UserError
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.lora import add_adapter
from phys4d.models.world import create_model

WriteRun = Callable[..., Path]


def flip(path: Path, place: int) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << place % 8
    path.write_bytes(data)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder with an adapter, and the folder of its backbone."""
    root = tmp_path_factory.mktemp("models")
    model = create_model(ModelConfig(width=32, layers=2, taps=(0, 1)), 5, 16, 16, seed=0)
    model_folder.save(model, root / "base", stage="backbone", base=None)
    add_adapter(model.backbone.transformer, "finetune", 2, 0, targets=model.backbone.lora_targets)
    model_folder.save(model, root / "model", stage="finetune", base=root / "base")
    model_folder.load(root / "model")
    return root / "model", root / "base"


def test_one_flipped_bit_of_a_model_is_one_line_that_names_the_file(models: tuple[Path, Path]) -> None:
    files = [path for folder in models for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) >= 9
    for path in files:
        whole = path.read_bytes()
        for place in (0, len(whole) // 3, len(whole) - 2):
            flip(path, place)
            with pytest.raises(UserError) as refused:
                model_folder.load(models[0])
            assert str(path) in f"{refused.value}" or str(path.parent) in f"{refused.value}"
            assert "\n" not in f"{refused.value}"
            path.write_bytes(whole)
    model_folder.load(models[0])


def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_weights(
    write_run: WriteRun, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["train", str(write_run(tmp_path / "run.toml", out, clips, ["backbone"]))]
    every = ["--set", "backbone.loop.checkpoint_every=1", "--set", "backbone.loop.keep=3"]
    assert main([*command, *every]) == 0
    weights = out / "model-backbone" / "transformer" / "diffusion_pytorch_model.safetensors"
    expected = weights.read_bytes()
    shutil.rmtree(out / "model-backbone")
    newest = out / "checkpoint-backbone-3" / "__0_0.distcp"
    flip(newest, newest.stat().st_size // 2)
    capsys.readouterr()

    assert main([*command, *every, "--resume"]) == 2
    line = (
        f"phys4d: error: {newest}: is damaged, its SHA-256 is not that in manifest.json: copy it again, or "
        "--resume=previous, which removes it and goes on from checkpoint-backbone-2\n"
    )
    assert capsys.readouterr().err.endswith(line)
    assert main([*command, *every, "--resume=previous"]) == 0
    assert weights.read_bytes() == expected

    assert main([*command, *every, "--resume=previous"]) == 2
    assert "every stage is finished: there is no checkpoint to go back from" in capsys.readouterr().err


@pytest.fixture(scope="module")
def measured(write_run: WriteRun, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a finished run that was evaluated, and the command that resumes it."""
    root = tmp_path_factory.mktemp("measured")
    command = ["train", str(write_run(root / "run.toml", root / "out", clips, ["backbone", "pretrain"]))]
    assert main(command) == 0
    return root / "out", [*command, "--resume"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "no text": lambda data: b"\xff\xfe\x00" + data,
    "another type": lambda data: b"[3]",
    "other values": lambda data: b'{"seconds": 1e999, "stages": {"a": NaN}, "identities": 3, "resumed": {}}',
    "deep": lambda data: b"[" * 100_000,
}
STATE = ("clock.json", "provenance.json", "metrics.jsonl", "summary.json", "latest", "report.html")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_that_only_describes_the_run_is_named_and_written_anew(
    measured: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder, resume = measured
    whole = {name: (folder / name).read_bytes() for name in STATE}
    for name, data in whole.items():
        (folder / name).write_bytes(DAMAGES[damage](data))
    capsys.readouterr()
    assert main(resume) == 0
    said = capsys.readouterr().err.splitlines()
    for name, line in zip(("provenance.json", "clock.json"), said, strict=False):
        assert line.startswith(f"{folder / name}: is damaged (") and f", renamed to {name}.damaged: " in line
        (folder / f"{name}.damaged").unlink()
    for name, data in whole.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_that_the_run_stands_on_is_one_line(
    measured: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder, resume = measured
    for name in ("config.toml", "evaluation/pretrain.json", "evaluation/truth.npz", "evaluation/manifest.json"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](whole))
        capsys.readouterr()
        assert main(resume) == 2, name
        said = capsys.readouterr().err
        assert said.startswith(f"phys4d: error: {path}: ") and said.count("\n") == 1, said
        path.write_bytes(whole)
    assert main(resume) == 0
