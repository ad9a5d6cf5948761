"""Paths in run files, --set and options are expanded as in a shell; other values are unchanged."""

import argparse
import os
from pathlib import Path

import pytest

from phys4d.engine.config import Config, dump_toml, load_toml
from phys4d.engine.errors import UserError
from phys4d.engine.paths import expanded, expanded_options


class Places(Config):
    folder: Path
    init: Path | None = None
    name: str = "~/$HOME"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOME": "/home/me", "SCRATCH": "/scratch", "EMPTY": "", "NESTED": "$SCRATCH/x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("~", "/home/me"),
        ("~/runs/x", "/home/me/runs/x"),
        ("~root/x", os.path.expanduser("~root") + "/x"),
        ("$HOME/x", "/home/me/x"),
        ("${SCRATCH}/x$HOME", "/scratch/x/home/me"),
        ("a/$HOME", "a/home/me"),
        ("runs/x", "runs/x"),
        ("../x", "../x"),
        ("/a/b", "/a/b"),
        ("a~b/c~", "a~b/c~"),
        ("cost$/5$", "cost$/5$"),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
    ],
)
def test_a_path_in_a_run_file_and_in_set(tmp_path: Path, written: str, path: str) -> None:
    (tmp_path / "run.toml").write_text(f'folder = "{written}"\n')
    config = load_toml(tmp_path / "run.toml", Places, [f"init={written}"])
    assert config == Places(folder=Path(path), init=Path(path))
    assert config.name == "~/$HOME"  # only a path is one
    (tmp_path / "resolved.toml").write_text(dump_toml(config))
    assert f'folder = "{path}"\n' in (tmp_path / "resolved.toml").read_text()
    assert load_toml(tmp_path / "resolved.toml", Places) == config


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("$UNSET/x", "$UNSET is not set in the environment: set it or write the path out"),
        ("${UNSET}/x", "${UNSET} is not set in the environment: set it or write the path out"),
        ("${}/x", "${} is not set in the environment: set it or write the path out"),
        ("$EMPTY/x", "$EMPTY is not set in the environment: set it or write the path out"),
        ("$NESTED/y", "stands for $SCRATCH/x/y, which names a variable again: write the path out"),
        ("~nobody-of-that-name/x", "the home folder of this user is not known: write the path out"),
        ("a\\u0000b", "a path cannot hold the character 0"),
    ],
)
def test_what_stands_for_nothing_is_refused_in_one_line(tmp_path: Path, written: str, reason: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'folder = "{written}"\n')
    with pytest.raises(UserError) as caught:
        load_toml(file, Places)
    assert str(caught.value) == f'{file}: folder: {reason}, got "{written}"'
    file.write_text('folder = "x"\n')
    with pytest.raises(UserError, match=f"--set init=\"{written}\": init: ".replace("$", r"\$").replace("\\u", r"\\u")):
        load_toml(file, Places, [f'init="{written}"'])


def test_options_of_a_command_are_expanded_too() -> None:
    options = argparse.Namespace(
        out=Path("~/x"), results=[Path("$SCRATCH/a"), Path("b")], caption=["~/no path"], none=None, empty=[], seed=0
    )
    expanded_options(options)
    assert options == argparse.Namespace(
        out=Path("/home/me/x"), results=[Path("/scratch/a"), Path("b")], caption=["~/no path"], none=None, empty=[],
        seed=0,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"^out-dir \$UNSET/x: \$UNSET is not set in the environment: set it or write"):
        expanded_options(argparse.Namespace(out_dir=Path("$UNSET/x")))


def test_a_home_that_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME and no such user
    with pytest.raises(ValueError, match="home folder of this user is not known"):
        expanded(Path("~/x"))
