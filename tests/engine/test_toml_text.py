"""Run files within limits: what is sound is parsed as ever, what would take seconds and gigabytes is refused."""

import os
import time
import tomllib
from pathlib import Path

import pytest

from phys4d.engine.config import Config, load_toml
from phys4d.engine.errors import UserError
from phys4d.engine.toml_text import loads

HOSTILE = {
    "a dotted key": "a" + ".a" * 20_000 + " = 1",
    "a table": "[" + "a." * 20_000 + "a]",
    "a quoted key": '"a"' + " . 'a'" * 10_000 + " = 1",
    "a key in an inline table": "x = {" + "a." * 1000 + "a = 1}",
    "arrays": "x = " + "[" * 20_000 + "]" * 20_000,
    "inline tables": "x = " + "{a = " * 5000 + "1" + "}" * 5000,
    "quotes": '"' * 100_000,
    "single quotes": "'" * 100_000,
    "backslashes": 'x = "' + "\\" * 100_001,
    "letters": "a" * 200_000,
    "length": "# " + "a" * 300_000,
}
SOUND = {
    "a = 1 # don't [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[": {"a": 1},
    'a = "' + "b." * 100 + "[" * 100 + '"': {"a": "b." * 100 + "[" * 100},
    "a = '''\n" + "b." * 100 + "'\n'''": {"a": "b." * 100 + "'\n"},
    'a = """\n\\""\\" b.c.d"""': {"a": '""" b.c.d'},
    "a.b.c = [[1, 2], [{d = 'x'}]]": {"a": {"b": {"c": [[1, 2], [{"d": "x"}]]}}},
    ".".join("abcdefghijklmnop") + " = 1": None,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_take_long_is_refused_at_once(tmp_path: Path, name: str) -> None:
    began = time.process_time()
    with pytest.raises(tomllib.TOMLDecodeError):
        loads(HOSTILE[name])
    (tmp_path / "run.toml").write_text(HOSTILE[name])
    with pytest.raises(UserError, match=f"^{tmp_path}/run.toml: not valid TOML: "):
        load_toml(tmp_path / "run.toml", Config)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("text", SOUND)
def test_what_is_sound_is_parsed_as_ever(text: str) -> None:
    assert loads(text) == (tomllib.loads(text) if SOUND[text] is None else SOUND[text])


def test_an_endless_file_ends(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not valid TOML: longer than 262144 bytes"):
        load_toml(Path("/dev/zero"), Config)
    read, write = os.pipe()
    os.write(write, b"[a]\nb = 1\n")
    os.close(write)
    with pytest.raises(UserError, match="a: unknown key"):  # a pipe of the shell is a run file like another
        load_toml(Path(f"/dev/fd/{read}"), Config)
    os.close(read)
