"""docs/generate-and-export.md: every command of the page, in its order, at the size of a test."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from phys4d.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "generate-and-export.md"
SMALLER = {"--size 480x832 --frames 49": "--size 64 --frames 5 --steps 2", "--steps 30": "--steps 2"}


def test_every_command_of_the_page(
    tuned: Path, released: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(tuned)
    Path("Wan2.2-TI2V-5B-Diffusers").symlink_to(released)
    shutil.copy(picture, "first.png")
    page = PAGE.read_text()
    assert [text for text in SMALLER if text not in page] == []
    for there, here in SMALLER.items():
        page = page.replace(there, here)
    lines = re.findall(r'^    (\{"image".*\})$', page, re.MULTILINE)
    Path("prompts.jsonl").write_text("\n".join(lines))
    printed = []
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            program, *words = shlex.split(line)
            assert program == "phys4d"
            if "--dry-run" in words:  # tests/generate/test_memory.py counts the released model
                words = [str(released) if word == "wan2.2-ti2v-5b" else word for word in words]
            steps = ["--steps", "2"] if words[0] == "generate" and "--steps" not in words else []
            assert main([*words, *steps]) == 0, line
            printed.append(capsys.readouterr().out)
    assert sorted(path.name for path in Path("clips").iterdir()) == ["ball", "ball-1", "batch", "lora", "published"]
    assert sorted(path.name for path in Path("clips/batch").iterdir()) == ["0002", "ball"]
    assert printed[-7].endswith("0 clips (video, depth and motion), 2 were there already\n")
    described = set(re.findall(r"^\| `([\w.-]+)", page, re.MULTILINE))
    assert {path.name for path in Path("clips/ball-1").iterdir()} <= described
    assert sorted(path.name for path in Path("exported").iterdir()) == ["comfyui", "half", "lora", "merged", "whole"]
    assert sorted(path.name for path in Path("exported/lora").iterdir()) == ["README.md", "lora"]
