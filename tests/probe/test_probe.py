"""`phys4d probe`: it finds what is planted, its files say the same, and what it refuses is one line."""

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from phys4d.cli import main
from phys4d.engine.distributed.parallel import Parallel
from phys4d.models import folder
from phys4d.models.backbone import Backbone
from phys4d.models.lora import add_adapter
from phys4d.models.placement import place
from phys4d.models.world import WorldModel
from phys4d.probe import sweep as sweep_module
from phys4d.probe.opening import Encoded, encoded_clips, open_probed
from phys4d.probe.results import best, tables
from phys4d.probe.ridge import Ridge
from phys4d.probe.sweep import Settings, features, sweep

PAGE = Path(__file__).parents[2] / "docs" / "probe.md"
CPU = torch.device("cpu")


def test_planted_knowledge_is_found(tiny_run: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 2 says depth at sigma 0.1, block 1 motion at 0.4, in numbers that no other block has; a set has both."""

    def planted(model: WorldModel, clip: Encoded, sigma: float, device: torch.device) -> dict[int, torch.Tensor]:
        draw = torch.Generator().manual_seed(int(clip.noise.double().sum() * 1e6) % 2**31)
        tokens = {k: torch.randn(len(clip.targets.values[0]), 32, generator=draw) for k in range(4)}
        tokens[2][:, 5] = clip.targets.values[0, :, 0] if sigma == 0.1 else 0
        tokens[1][:, 7:9] = clip.targets.values[0, :, 1:] if sigma == 0.4 else 0
        return tokens

    fitted: list[torch.Tensor] = []
    add = Ridge.add

    def noted(self: Ridge, x: torch.Tensor, y: torch.Tensor) -> None:
        fitted.append(y)
        add(self, x, y)

    monkeypatch.setattr(sweep_module, "features", planted)
    monkeypatch.setattr(Ridge, "add", noted)
    sets = ((0,), (1,), (2,), (3,), (1, 2))
    probed = open_probed(tiny_run, labelled, 8, sets)
    found = sweep(probed, Settings((0.1, 0.4), 1e-6, 0, "fp32", CPU))
    clips = [encoded.targets.values[0] for encoded in encoded_clips(probed, 0, CPU) if not encoded.held_out]
    assert torch.equal(torch.cat(fitted[::5]), torch.cat(clips).repeat(2, 1)) and len(fitted) == 5 * 2 * 6
    assert len(found.cells) == 10 and (found.fitted, found.held_out) == (6, 2)
    errors = {(cell.taps, cell.sigma): cell.errors for cell in found.cells}
    for taps, sigma, error in (((2,), 0.1, "depth"), ((1,), 0.4, "motion"), ((1, 2), 0.4, "moving")):
        assert errors[taps, sigma][error].mean < 0.01 < found.constant[error].mean
        assert errors[taps, 0.4 if sigma == 0.1 else 0.1][error].mean > 0.1
    assert errors[(3,), 0.1]["depth"].mean > 0.7 * found.constant["depth"].mean
    assert best(found, "depth").sigma == 0.1 and best(found, "motion").sigma == 0.4
    assert "sigma 0.1" in tables(found) and "6 clips fitted, 2 held out" in tables(found)


def test_the_first_clips_are_taken_and_every_fourth_is_held_out(tiny_run: Path, labelled: Path) -> None:
    clips = encoded_clips(open_probed(tiny_run, labelled, 7, None), 0, CPU)
    assert [clip.held_out for clip in clips] == [False, False, False, True, False, False, False]
    others = encoded_clips(open_probed(tiny_run, labelled, 4, None), 1, CPU)
    assert torch.equal(others[2].clean, clips[2].clean) and not torch.equal(others[2].noise, clips[2].noise)


def test_features_are_normed_tokens_with_the_policy_off_and_other_adapters_on(
    tiny_run: Path, labelled: Path, tmp_path: Path
) -> None:
    found = []
    for adapters in ((), ("reinforce",), ("finetune",)):
        path = tmp_path / "-".join(("model", *adapters))
        model = folder.load(tiny_run / "model-backbone").model
        place(model, Parallel.alone())
        for name in adapters:
            add_adapter(model.backbone.transformer, name, 4, 1, model.backbone.lora_targets)
            for key, parameter in model.backbone.transformer.named_parameters():
                if f"lora_B.{name}." in key:
                    parameter.data.fill_(0.3)
        folder.save(model, path, stage="finetune", base=tiny_run / "model-backbone")
        probed = open_probed(path, labelled, 4, None)
        clip = encoded_clips(probed, 0, CPU)[0]
        place(probed.model, Parallel.alone())
        probed.model.backbone.tap((0, 3))
        with torch.no_grad():
            tokens = features(probed.model, clip, 0.3, CPU)
            level = torch.full((1,), 0.3)
            noisy = probed.model.noised(clip.clean, clip.noise, level)
            if not adapters:
                hidden = probed.model.backbone(noisy, level, clip.text, clip.first).hidden
                for x, y in zip(hidden, tokens.values(), strict=True):
                    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x[0], (32,)))
        assert list(tokens) == [0, 3] and tokens[3].shape == (128, 32)
        found.append(tokens)
    for k in (0, 3):
        assert torch.equal(found[1][k], found[0][k]) and not torch.allclose(found[2][k], found[0][k])


def test_all_blocks_are_tapped_in_one_evaluation(
    tiny_run: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And files, table and picture agree; the same command gives the same numbers; a model folder is taken, too."""
    evaluations: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, *given: Any) -> Any:
        prediction = forward(self, *given)
        evaluations.append(len(prediction.hidden))
        return prediction

    monkeypatch.setattr(Backbone, "forward", counted)
    words = ["--data", str(labelled), "--sigmas", "0.05", "0.3", "--clips", "5"]
    assert main(["probe", str(tiny_run), *words, "--out", str(tmp_path / "one")]) == 0
    assert evaluations == [4] * 10  # five clips, two noise levels
    printed = capsys.readouterr().out
    assert main(["probe", str(tiny_run / "model-backbone"), *words, "--out", str(tmp_path / "two")]) == 0
    assert (tmp_path / "one/probe.csv").read_bytes() == (tmp_path / "two/probe.csv").read_bytes()
    whole = json.loads((tmp_path / "one/probe.json").read_text())
    rows = list(csv.DictReader((tmp_path / "one/probe.csv").open()))
    assert [(row["taps"], row["sigma"]) for row in rows] == [(str(k), s) for s in ("0.05", "0.3") for k in range(4)]
    assert [float(row["depth"]) for row in rows] == [cell["depth"] for cell in whole["cells"]]
    assert (whole["fitted"], whole["held_out"]) == (4, 1)
    assert all(a["depth"] != b["depth"] for a, b in zip(rows[:4], rows[4:], strict=True))  # of two noise levels
    least = min(whole["cells"], key=lambda cell: cell["depth"])
    assert whole["best"]["depth"] == {"taps": [int(least["taps"])], "sigma": least["sigma"]}
    assert f"| {least['taps']} |" in printed and f"{least['depth']:.4f}" in printed
    picture = np.asarray(Image.open(tmp_path / "one/probe.png").convert("RGB"))
    assert picture.shape[1] > 600 and (picture == (229, 57, 53)).all(-1).sum() > 200  # the frames of the best cells


def test_a_published_folder_and_sets_of_blocks(
    released: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(labelled), "--taps", "0", "0,2", "--sigmas", "0.1"]
    assert main(["probe", str(released), *words]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^\| ([\d,]+) \|", printed, re.MULTILINE) == 3 * ["0", "0,2"]


REFUSED = {
    "--sigmas 0": "--sigmas 0: expected numbers between 0 and 1",
    "--sigmas 1": "--sigmas 1: expected numbers between 0 and 1",
    "--clips 3": "--clips 3: expected 4 or more",
    "--ridge 0": "--ridge 0: expected a number above 0",
    "--seed -1": "--seed -1: expected 0 to",
    "--taps 1,x": "--taps 1,x: expected numbers of blocks",
    "--taps 1,1": "--taps 1,1: expected different blocks",
    "--taps 1,4": "--taps 1,4: the transformer has blocks 0 to 3",
    "--device nothing": "--device nothing: is not there",
}


@pytest.mark.parametrize("words", REFUSED)
def test_options_out_of_range(words: str, tiny_run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", str(tiny_run), "--data", str(labelled), *words.split()]) == 2
    assert_one_line(capsys.readouterr().err, REFUSED[words])


def assert_one_line(printed: str, words: str) -> None:
    lines = [line for line in printed.splitlines() if line.startswith("phys4d:")]
    assert len(lines) == 1 and words in lines[0], printed


DATASETS: dict[str, tuple[dict[str, Any], str]] = {
    "few": ({"count": 3}, "3 clips: a probe needs 4 or more"),
    "disparity": ({"meta": {"depth_kind": "affine_disparity"}}, "clip clip0: its depth is affine_disparity"),
    "unlabelled": ({"without": ("motion",)}, "motion"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_unusable_datasets(
    name: str, tiny_run: Path, write_clips: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = DATASETS[name]
    data = write_clips(tmp_path / name, **changes)
    assert main(["probe", str(tiny_run), "--data", str(data), "--sigmas", "0.1"]) == 2
    assert_one_line(capsys.readouterr().err, words)


def test_a_folder_that_is_no_model_and_an_output_that_is_a_file(
    tiny_run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(tmp_path), "--data", str(labelled)]) == 2
    assert_one_line(capsys.readouterr().err, "is no run, no model folder of a stage, and no published model")
    (tmp_path / "file").touch()
    assert main(["probe", str(tiny_run), "--data", str(labelled), "--out", str(tmp_path / "file")]) == 2
    assert_one_line(capsys.readouterr().err, "is a file, where a folder is needed")


def test_every_command_of_the_page(
    tiny_run: Path, released: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, there in (("runs/mine", tiny_run), ("Wan2.2-TI2V-5B-Diffusers", released), ("data/train", labelled)):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(there)
    page = PAGE.read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "phys4d" and main(words) == 0, line
    for file in Path("probes/mine").iterdir():
        assert f"`{file.name}`" in page
    columns = Path("probes/mine/probe.csv").read_text().splitlines()[0].split(",")
    assert set(columns) <= set(re.findall(r"`(\w+)`", page))
