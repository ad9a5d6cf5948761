"""Killed before each of their operations on files, with unsynced data lost, commands go on to the same bytes."""

import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from phys4d.cli import main
from phys4d.engine.data.files.journal import JOURNAL
from phys4d.engine.data.tools.rank_shards import NOTES
from phys4d.models import folder as model_folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.world import create_model
from tests.stages.crashes import killed_at

pytestmark = pytest.mark.slow
LEFT = (".lock", JOURNAL, NOTES)


def sweep(
    action: Callable[[Path], list[str]], result: Callable[[Path], object], root: Path, every: int = 1,
    last: str = "index.parquet",
) -> int:  # fmt: skip
    """Kills the command before each operation number 0, every, 2 every ...; it must then end as without a kill.

    action: output folder -> the command; it is asked again before it goes on.
    result: output folder -> what is compared.
    last: the file with which a folder is whole, and then refused as one that exists.

    Returns the number of kills.
    """
    root.mkdir()
    whole = root / "whole"
    assert main(action(whole)) == 0
    expected = result(whole)
    shutil.rmtree(whole)
    moment = kills = 0
    while True:
        out = root / "out"
        if not killed_at(moment, partial(_ends, action(out)), root):
            break
        kills += 1
        whole_already = (out / last).exists()
        assert main(action(out)) == (2 if whole_already else 0), moment
        assert result(out) == expected, moment
        for path in root.iterdir():  # also hidden leftovers
            assert path == out, f"operation {moment}: {path} is left"
        shutil.rmtree(out)
        moment += every
    print(f"{kills} kills")
    return kills


def _ends(command: list[str]) -> None:
    raise SystemExit(main(command))


def dataset(folder: Path) -> dict[str, bytes]:
    """The files of a dataset, but for what a kill behind the last rename leaves of its writer."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in LEFT}


@pytest.fixture
def training(write_run: Callable[..., Path], clips: Path, tmp_path: Path) -> Callable[[Path], list[str]]:
    """The command that trains two stages into a folder, or goes on with what is there."""

    def command(out: Path) -> list[str]:
        run = write_run(tmp_path / "run.toml", out, clips, ["backbone", "pretrain"])
        run.write_text(run.read_text().partition("[evaluate]")[0])
        loop = "{steps=2, log_every=1, checkpoint_every=1, keep=1, save_in_background=false}"
        sets = [word for stage in ("backbone", "pretrain") for word in ("--set", f"{stage}.loop={loop}")]
        begun = (out / "config.toml").exists()
        return ["train", str(run), *sets, *(["--resume"] if begun else [])]

    return command


def trained(out: Path) -> dict[str, object]:
    """The weights and the logged figures of a finished run."""
    weights = {str(path.relative_to(out)): path.read_bytes() for path in out.glob("model-*/**/*.safetensors")}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["stage"], line["step"], line["loss"], line["grad_norm"]) for line in lines]
    assert len(weights) == 3 and len(logged) == 4
    return {"logged": logged, "weights": weights}


def test_a_training_run_of_two_stages(training: Callable[[Path], list[str]], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert sweep(training, trained, tmp_path / "disk") > 60


RANK_KILLS = 20


def test_a_training_run_on_two_ranks(
    session: Callable[..., dict[str, Any]], training: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """At points spread evenly over the operations of both ranks; the other rank then ends by itself, resumably."""
    disk = tmp_path / "disk"
    disk.mkdir()
    out = disk / "out"

    def run(**crash: int) -> dict[str, Any]:
        return session(*training(out), ranks=2, crash={"disk": str(disk), **crash})

    whole = run()
    assert whole["codes"] == [0, 0], whole["errors"]
    expected = trained(out)
    points = [(rank, moment) for rank, count in enumerate(whole["operations"]) for moment in range(count)]
    assert min(whole["operations"]) > 10
    for rank, moment in (points[(2 * n + 1) * len(points) // (2 * RANK_KILLS)] for n in range(RANK_KILLS)):
        shutil.rmtree(out)
        ended = run(rank=rank, moment=moment)
        assert ended["codes"][rank] == -signal.SIGKILL and ended["codes"][1 - rank] == 3, (rank, moment, ended)
        again = session(*training(out), ranks=2)
        assert again["codes"] == [0, 0], (rank, moment, again["errors"])
        assert trained(out) == expected, (rank, moment)
        assert list(disk.iterdir()) == [out], (rank, moment)


def test_simulate(tmp_path: Path) -> None:
    scenes = ["--family", "fall", "--frames", "9", "--fps", "8", "--size", "16", "--clips", "2", "--workers", "1"]
    assert sweep(lambda out: ["simulate", "--out", str(out), *scenes], dataset, tmp_path / "disk") > 15


def test_label(tmp_path: Path) -> None:
    scenes = ["--family", "fall", "--frames", "9", "--fps", "8", "--size", "16", "--workers", "1"]
    for name, seed in (("videos", "1"), ("scenes", "2")):
        assert main(["simulate", "--out", str(tmp_path / name), "--clips", "2", "--seed", seed, *scenes]) == 0

    def command(out: Path) -> list[str]:
        teacher = ["--scenes", str(tmp_path / "scenes"), "--steps", "1", "--set", "depth.batch=1", "--workers", "1"]
        return ["label", "--videos", str(tmp_path / "videos"), "--out", str(out), *teacher]

    assert sweep(command, dataset, tmp_path / "disk") > 15


def test_export(tmp_path: Path) -> None:
    config = ModelConfig(width=32, layers=2, taps=(0, 1), heads=HeadConfig(width=8), sampling_steps=2)
    model_folder.save(create_model(config, 5, 16, 16, seed=0), tmp_path / "model", stage="pretrain", base=None)

    def files(out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    command = ["export", str(tmp_path / "model"), "--out"]
    assert sweep(lambda out: [*command, str(out)], files, tmp_path / "disk", last="README.md") > 5
