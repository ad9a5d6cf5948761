"""Run files: equal after a round trip, and one clear line for every error."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from phys4d.engine.config import Config, build, dump_toml, load_toml
from phys4d.engine.errors import UserError


class Rate(Config):
    peak: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["constant", "linear"] = "constant"


class Stage(Config):
    steps: int = Field(ge=1)
    rate: Rate = Rate()


class RunFile(Config):
    name: str = "run"
    folder: Path = Path("runs/a")
    debug: bool = False
    limit: float | None = None
    sizes: tuple[int, ...] = (48, 48)
    main: Stage
    more: tuple[Stage, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)

    @field_validator("sizes")
    @classmethod
    def _even(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size % 2 for size in sizes):
            raise ValueError("sizes must be even")
        return sizes


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


text_values = st.text(st.characters(codec="utf-8"), max_size=12)
stages = st.builds(
    Stage,
    steps=st.integers(1, 2**40),
    rate=st.builds(
        Rate,
        peak=st.floats(1e-300, 1e300),
        betas=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
        kind=st.sampled_from(["constant", "linear"]),
    ),
)
run_files = st.builds(
    RunFile,
    name=text_values,
    debug=st.booleans(),
    limit=st.none() | st.floats(allow_nan=False),
    sizes=st.lists(st.integers(-50, 50).map(lambda n: 2 * n), max_size=3).map(tuple),
    main=stages,
    more=st.lists(stages, max_size=2).map(tuple),
    labels=st.dictionaries(text_values, text_values, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(config=run_files)
def test_a_dumped_configuration_loads_back_equal(
    config: RunFile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("config"), dump_toml(config))
    assert load_toml(path, RunFile) == config


MAIN = "[main]\nsteps = 1\n"
FAULTS = [
    ("steps = 3", "main: expected a value (it has no default), got nothing (and 1 more)"),
    ("[main]\nsteps = 'ten'", 'main.steps: expected an integer, got "ten"'),
    ("[main]\nsteps = 2.5", "main.steps: expected an integer, got 2.5"),
    ("[main]\nsteps = 0", "main.steps: expected a number of at least 1, got 0"),
    ("debug = 1\n" + MAIN, "debug: expected true or false, got 1"),
    ("name = 1\n" + MAIN, "name: expected a string, got 1"),
    ("limit = 'far'\n" + MAIN, 'limit: expected a number, got "far"'),
    ("main = 3", "main: expected a table, got 3"),
    (MAIN + "rate.peak = -1", "main.rate.peak: expected a number above 0.0, got -1"),
    (MAIN + "rate.betas = [1]", "main.rate.betas.1: expected a value (it has no default), got nothing"),
    (MAIN + "rate.kind = 'cosine'", "main.rate.kind: expected 'constant' or 'linear', got \"cosine\""),
    ("sizes = [3]\n" + MAIN, "sizes: sizes must be even, got [3]"),
    (MAIN + "step = 1", "main.step: unknown key, did you mean 'steps'?"),
    ("peak = 1.0\n" + MAIN, "peak: unknown key, did you mean 'main.rate.peak'?"),
    (MAIN + "[[more]]\nsteps = 2\nrate.bets = [1]", "more.0.rate.bets: unknown key, did you mean 'betas'?"),
    (MAIN + "rate.zzz = 1", "main.rate.zzz: unknown key, expected one of peak, betas, kind"),
]


@pytest.mark.parametrize(("text", "line"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_one_line_with_file_key_expected_and_got(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_toml(path, RunFile)
    message = str(caught.value)
    assert "\n" not in message
    if "(and" in line:
        assert message.startswith(f"{path}: ") and message.endswith("(and 1 more)")
    else:
        assert message == f"{path}: {line}"


def test_what_is_no_toml_or_no_file_is_a_line_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.toml: not valid TOML: .+"):
        load_toml(write(tmp_path, "main = {"), RunFile)
    with pytest.raises(UserError, match=r"none\.toml: cannot read the run file: No such file"):
        load_toml(tmp_path / "none.toml", RunFile)
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"run\.toml: not UTF-8 text \(byte 0\)"):
        load_toml(tmp_path / "run.toml", RunFile)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), override=st.text(max_size=20) | st.text("=.a1[]{}\n", max_size=9))
def test_no_text_and_no_override_leads_to_another_exception(
    text: str, override: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as caught:
        load_toml(path, RunFile, [override])
    assert str(caught.value).splitlines() == [str(caught.value)]


def test_overrides_are_applied_in_order_and_blamed(tmp_path: Path) -> None:
    path = write(tmp_path, "[main]\nsteps = 1\n[[more]]\nsteps = 1")
    overrides = ["main.steps=2", "main.steps=5", "name=plain words", "more.0.rate.peak=1e-2", "sizes=[2, 4]"]
    config = load_toml(path, RunFile, overrides)
    assert (config.main.steps, config.name, config.more[0].rate.peak) == (5, "plain words", 0.01)
    assert config.sizes == (2, 4)
    faults = {
        "main.steps=few": '--set main.steps=few: main.steps: expected an integer, got "few"',
        "main.stps=2": "--set main.stps=2: main.stps: unknown key, did you mean 'steps'?",
        "main.steps.x=2": "--set main.steps.x=2: main.steps is no table, it is 1",
        "more.1.steps=2": "--set more.1.steps=2: more is an array of 1: expected an index below 1, got '1'",
        "steps": "--set steps: expected KEY=VALUE, with a key such as main.rate.peak",
    }
    for override, line in faults.items():
        with pytest.raises(UserError) as caught:
            load_toml(path, RunFile, [override])
        assert str(caught.value) == line


def test_plain_values_are_checked_like_a_file() -> None:
    assert build(Stage, {"steps": 3, "rate": {"betas": (0.1, 0.2)}}, "command") == Stage(
        steps=3, rate=Rate(betas=(0.1, 0.2))
    )
    with pytest.raises(UserError, match=r"^command: steps: expected an integer, got true$"):
        build(Stage, {"steps": True}, "command")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Stage(steps=1).steps = 2  # type: ignore[misc]
