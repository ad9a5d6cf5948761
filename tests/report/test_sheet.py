"""Contact sheets show every clip of a dataset: its frames and its truth."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.report.sheet import COLUMNS, FRAMES, GAP, LINE, RULE, contact_sheet
from phys4d.simulation.generate import SimulateConfig, simulate


@pytest.fixture(scope="module", params=[True, False], ids=["truth", "video only"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheet") / "clips"
    config = SimulateConfig(families=("fall",), clips=3, size=(24, 32), frames=13, seed=1, truth=request.param)
    simulate(config, folder, workers=1)
    return folder


def test_a_sheet_shows_frames_and_truth(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert main(["data", "sheet", str(dataset), "--out", str(out)]) == 0
    assert "3 clips" in capsys.readouterr().out
    clips = ClipDataset(dataset)
    columns = FRAMES + (4 if clips[0].arrays else 0)
    width, height = columns * (32 + RULE) + GAP, 24 + 2 * LINE + GAP
    sheet = np.array(Image.open(out))
    assert sheet.shape == (2 * height, COLUMNS * width, 3)
    for index in range(3):
        row, column = divmod(index, COLUMNS)
        tile = sheet[row * height + 2 * LINE :, column * width :]
        for k, t in enumerate(np.linspace(0, 12, FRAMES).round().astype(int)):
            left = k * (32 + RULE)
            assert np.array_equal(tile[:24, left : left + 32], clips[index].video[t])
        shown = {tuple(colour) for colour in tile[:24, FRAMES * (32 + RULE) : columns * (32 + RULE)].reshape(-1, 3)}
        assert len(shown) > 20 if columns > FRAMES else not shown


def test_what_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "sheet", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_name_says_the_kind_of_picture(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contact_sheet(dataset, tmp_path / "small.jpg", clips=1) == 1
    assert Image.open(tmp_path / "small.jpg").format == "JPEG"
    assert main(["data", "sheet", str(dataset), "--out", str(tmp_path / "x.gif")]) == 2
    assert "expected a name that ends in .png, .jpg, .jpeg" in capsys.readouterr().err
