"""Each published kind of backbone on another device type: stages, evaluation and generation leave no tensor behind."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models.cogvideox.test_cogvideox_stages import nine_frames  # noqa: F401 (a fixture)
from tests.published_folders import KINDS, write_cogvideox, write_published, write_wan21  # noqa: F401 (fixtures)
from tests.stages.released_run import STAGES, STEPS, run_text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wan"])
def test_a_published_folder_trains_is_evaluated_and_generates_on_a_device(
    on_device: Callable[..., None], write_published: Callable[[str, Path], Path], nine_frames: Path,  # noqa: F811
    tmp_path: Path, kind: str,
) -> None:  # fmt: skip
    """Wan2.2 trains and is evaluated in test_device."""
    folder, run = write_published(kind, tmp_path / "model"), tmp_path / "run"
    text = run_text(run, folder, nine_frames, kind=kind.partition("-")[0], evaluate={})
    run.with_suffix(".toml").write_text(text)
    on_device("train", run.with_suffix(".toml"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [stage for stage in STAGES for _ in range(STEPS)]
    assert list(json.loads((run / "summary.json").read_text())["stages"]) == list(STAGES)
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "first.png")
    first = () if kind.endswith("text") else ("--image", tmp_path / "first.png")
    tiles = () if kind == "opensora" else ("--vae-tiling",)
    words = ("--prompt", "a red ball", "--points", 0, "--steps", 2, "--device", "standin", "--out", tmp_path / "clip")
    on_device("generate", "--model", run, *first, *tiles, *words)
    assert (tmp_path / "clip" / "clip.json").is_file()
