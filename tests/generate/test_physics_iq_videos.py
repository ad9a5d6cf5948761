"""`phys4d generate --suite physics-iq`: names, five seconds, runs, ranks, what is kept and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from phys4d.cli import main
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.evaluate.physics_iq.layout import VIEWS
from phys4d.evaluate.physics_iq.video import Length, check_length, frame_rate

NAMES = [f"{index + 1:04d}_{view}_trimmed-ball.mp4" for index, view in enumerate(VIEWS)]


@pytest.fixture
def asked(tmp_path: Path, picture: Path) -> Path:
    """Start frames and descriptions of one scenario."""
    from PIL import Image

    folder = tmp_path / "benchmark"
    (folder / "switch-frames").mkdir(parents=True)
    lines = ["scenario,description,category,generated_video_name"]
    for take in (1, 2):
        for index, view in enumerate(VIEWS):
            known = f"{index + 1 + (take - 1) * 198:04d}"
            lines.append(f'{known}_{view}_take-{take}_trimmed-ball.mp4,"a ball, {view}",Optics,{NAMES[index]}')
            frame = folder / "switch-frames" / f"{known}_switch-frames_anyFPS_{view}_trimmed-ball.jpg"
            Image.open(picture).convert("RGB").save(frame)
    (folder / "descriptions.csv").write_text("\n".join(lines) + "\n")
    return folder


def generate(model: Path, benchmark: Path, out: Path, *words: str) -> int:
    fixed = ["--suite", "physics-iq", "--benchmark", str(benchmark), "--fps", "1", "--points", "0"]
    return main(["generate", "--model", str(model), "--out", str(out), *fixed, *words])


def test_every_view_of_take_1_once_a_run_by_its_own_seed(tiny_run, asked, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert generate(tiny_run, asked, out, "--runs", "2", "--seed", "7") == 0
    for run in (1, 2):
        assert sorted(path.name for path in (out / f"run-{run}").iterdir()) == NAMES
    metas = [json.loads((out / "clips" / f"run-{run}" / NAMES[2][:-4] / "clip.json").read_text()) for run in (1, 2)]
    assert [meta["generation"]["seed"] for meta in metas] == [9, 12]
    assert metas[0]["caption"] == f"a ball, {VIEWS[2]}" and metas[0]["generation"]["kept"] == 5
    videos = [(out / f"run-{run}" / NAMES[0]) for run in (1, 2)]
    assert all((check_length(video, Length(1, generated=False)), frame_rate(video)) == (0, 1) for video in videos)
    assert videos[0].read_bytes() != videos[1].read_bytes()
    shutil.rmtree(out / "clips" / "run-1" / NAMES[1][:-4])
    before = videos[0].stat().st_mtime_ns
    assert generate(tiny_run, asked, out, "--runs", "2", "--seed", "7") == 0
    assert "out: 1 clips (video, depth and motion), 5 were there already" in capsys.readouterr().out
    assert videos[0].stat().st_mtime_ns == before


def test_ranks_take_turns_and_their_clips_are_those_of_one(tiny_run, asked, tmp_path, monkeypatch) -> None:
    assert generate(tiny_run, asked, tmp_path / "one") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, names in (("1", [NAMES[1]]), ("0", NAMES)):
        monkeypatch.setenv("RANK", rank)
        assert generate(tiny_run, asked, tmp_path / "two") == 0
        assert sorted(path.name for path in (tmp_path / "two" / "run-1").iterdir()) == names
    for name in NAMES:
        files = [tmp_path / folder / "run-1" / name for folder in ("one", "two")]
        first, second = (PyAVDecoder().decode(file.read_bytes(), 0, 5) for file in files)
        assert (first == second).all()


def test_a_clip_is_cut_to_five_seconds(tiny_run, asked, tmp_path) -> None:
    from phys4d.generate.physics_iq import kept_frames

    assert (kept_frames(24, 121), kept_frames(8.0, 49), kept_frames(16, 80)) == (120, 40, 80)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--fps", "2"], "--frames 5: are 2.50 s at 2 a second: Physics-IQ reads 10"),
        (["--fps", "1.5"], "--fps 1.5: expected a whole number"),
        (["--prompt", "a"], "--prompt: not with --suite"),
        (["--batch", "a"], "--batch: not with --suite"),
        (["--dry-run"], "--suite physics-iq: expected --benchmark, its folder, and no --dry-run"),
        (["--runs", "0"], "--runs 0: expected 1 to 1000"),
    ],
)
def test_what_does_not_fit_is_one_line(words, line, tiny_run, asked, tmp_path, capsys) -> None:
    assert generate(tiny_run, asked, tmp_path / "out", *words) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_start_frame_that_is_missing_is_named(tiny_run, asked, tmp_path, capsys) -> None:
    next((asked / "switch-frames").glob("0002_*")).unlink()
    assert generate(tiny_run, asked, tmp_path / "out") == 2
    assert "0002_switch-frames_anyFPS_perspective-center_trimmed-ball.jpg: is missing" in capsys.readouterr().err


def test_options_of_the_suite_alone(tiny_run, capsys) -> None:
    assert main(["generate", "--model", str(tiny_run), "--out", "x", "--prompt", "a", "--runs", "2"]) == 2
    assert "--benchmark, --descriptions, --runs: belong to --suite physics-iq" in capsys.readouterr().err
