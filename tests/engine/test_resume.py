"""Changes on resume: those that fields allow are printed and recorded, all others are refused."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest

from phys4d.engine.config import Config, load_toml
from phys4d.engine.errors import UserError
from phys4d.engine.resume import FROM_HERE, MOVED, SAME_WEIGHTS, Movable, OnResume, changes, digest
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig

AVERAGED = OptimizerConfig(learning_rate=1.0, ema=0.9)
AGAIN = OnResume("measured again", discards="results")


class Measure(Config):
    clips: int = 4


class Stage(Config):
    batch: int = 2
    data: Movable = Path("data")
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1.0)
    loop: LoopConfig = LoopConfig(steps=3)


class Whole(Config):
    seed: int = 0
    start: Annotated[Path, MOVED] = Path("model")
    first: Stage = Stage()
    second: Stage = Stage()
    measure: Annotated[Measure | None, AGAIN] = None


def resume(folder: Path, config: Whole, **options: Any) -> dict[str, Any]:
    """The record of the resumed session in provenance.json."""
    Run.create(folder, config, resume=True, **options).close()
    return json.loads((folder / "provenance.json").read_text())["resumed"][-1]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    Run.create(tmp_path / "run", Whole(), resume=False, identities={"first.data": "a", "second.data": "b"}).close()
    return tmp_path / "run"


IDENTITIES = {"first.data": "a", "second.data": "b"}


def stage(**values: Any) -> Stage:
    return Stage.model_validate({**Stage().model_dump(), **values})


def test_differences_are_by_dotted_key() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 1, "c": 3}, "e": {"f": 0}}
    assert list(map(str, changes(old, new))) == ["a.c: 2 -> 3", "d: 1 -> null", 'e: null -> {"f": 0}']


def test_changes_that_a_field_allows_are_printed_recorded_and_stored(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = stage(
        data=begun / "moved",
        optimizer=OptimizerConfig(learning_rate=0.5, warmup_steps=2, decay_fraction=0.5, clip_norm=2.0),
        loop=LoopConfig(steps=9, log_every=1, checkpoint_every=2, keep=1),
    )
    record = resume(begun, Whole(second=changed), identities=IDENTITIES)
    effects = {entry["key"].removeprefix("second."): entry["effect"] for entry in record["changed"]}
    assert effects == {
        "data": "another place, the same content",
        "loop.checkpoint_every": SAME_WEIGHTS.effect,
        "loop.keep": SAME_WEIGHTS.effect,
        "loop.log_every": SAME_WEIGHTS.effect,
        "loop.steps": "the weights are those of a run started with it where optimizer.decay_fraction is 0",
        "optimizer.clip_norm": FROM_HERE.effect,
        "optimizer.decay_fraction": FROM_HERE.effect,
        "optimizer.learning_rate": FROM_HERE.effect,
        "optimizer.warmup_steps": FROM_HERE.effect,
    }
    (rate,) = [entry for entry in record["changed"] if entry["key"] == "second.optimizer.learning_rate"]
    assert (rate["from"], rate["to"]) == (1.0, 0.5)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 9
    assert f"resumes with second.optimizer.learning_rate: 1.0 -> 0.5: {FROM_HERE.effect}" in shown
    assert load_toml(begun / "config.toml", Whole) == Whole(second=changed)
    again = resume(begun, Whole(second=changed), identities=IDENTITIES)
    assert again["changed"] == []  # the new configuration is the stored one now


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (Whole(seed=1), "seed: 0 -> 1"),
        (Whole(second=stage(batch=4)), "second.batch: 2 -> 4"),
        (Whole(second=stage(optimizer=AVERAGED)), "second.optimizer.ema: 0.0 -> 0.9"),
        (Whole(seed=1, second=stage(batch=4, loop=LoopConfig(steps=9))), "second.batch: 2 -> 4, seed: 0 -> 1"),
    ],
)
def test_all_other_changes_are_refused_and_nothing_is_written(begun: Path, config: Whole, what: str) -> None:
    """Bad ones make the good ones beside them refused too, and are named alone."""
    (begun / "results").mkdir()
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        Run.create(begun, config, resume=True, identities=IDENTITIES)
    line = "the run was started with another configuration"
    end = "resume with the old one or start a new folder"
    assert str(caught.value) == f"{begun}/config.toml: {line}: {what}: {end}"
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_a_finished_stage_takes_up_nothing_that_would_have_acted(begun: Path) -> None:
    slower = stage(optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(UserError) as caught:
        resume(begun, Whole(first=slower), finished=["first"])
    change = "first.optimizer.learning_rate: 1.0 -> 0.5"
    end = "this stage is finished: set it back, --rerun first, or start a new folder"
    assert str(caught.value) == f"{begun}/config.toml: {change}: {end}"
    moved = stage(data=begun, loop=LoopConfig(steps=3, keep=1))
    kept = resume(begun, Whole(first=moved, second=slower), finished=["first"], identities=IDENTITIES)["changed"]
    assert [entry["key"] for entry in kept] == ["first.data", "first.loop.keep", "second.optimizer.learning_rate"]


def test_results_of_an_old_setting_are_removed(begun: Path) -> None:
    (begun / "results").mkdir()
    (begun / "results" / "first.json").write_text("{}")
    resume(begun, Whole(), identities=IDENTITIES)
    assert (begun / "results").exists()
    record = resume(begun, Whole(measure=Measure()), identities=IDENTITIES | {"measure.data": "x"})
    assert [entry["key"] for entry in record["changed"]] == ["measure", "content of measure.data"]
    assert not (begun / "results").exists()
    (begun / "results").mkdir()
    record = resume(begun, Whole(measure=Measure(clips=5)), identities=IDENTITIES | {"measure.data": "x"})
    assert [entry["key"] for entry in record["changed"]] == ["measure.clips"]
    assert not (begun / "results").exists()
    (begun / "results").symlink_to(begun.parent)
    resume(begun, Whole(measure=Measure(clips=5)), identities=IDENTITIES | {"measure.data": "y"})
    assert not (begun / "results").is_symlink() and begun.parent.is_dir()


def test_data_that_is_not_that_of_the_start_is_refused(begun: Path) -> None:
    with pytest.raises(UserError) as caught:
        resume(begun, Whole(second=stage(data=Path("other"))), identities=IDENTITIES | {"second.data": "c"})
    what = "does not hold what it held at the start of the run"
    end = "give the same files or start a new folder"
    assert str(caught.value) == f"second.data: other: {what} ({begun}/config.toml): {end}"
    with pytest.raises(UserError, match=f"^start: model: {what}"):
        resume(begun, Whole(), identities=IDENTITIES | {"start": "m"})
    resume(begun, Whole(), finished=["second"], identities=IDENTITIES | {"second.data": "c"})  # it is not read any more
    stored = json.loads((begun / "provenance.json").read_text())["identities"]
    assert stored == IDENTITIES


def test_data_may_be_repaired_in_its_place(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clip that turned out bad is written again: the run goes on, says so, and records it."""
    record = resume(begun, Whole(), identities=IDENTITIES | {"second.data": "c"})
    effect = "other files than at the start of the run, from the next step on"
    assert record["changed"] == [{"key": "content of second.data", "from": "b", "to": "c", "effect": effect}]
    assert capsys.readouterr().err == f'resumes with content of second.data: "b" -> "c": {effect}\n'
    assert resume(begun, Whole(), identities=IDENTITIES | {"second.data": "c"})["changed"] == []


def test_a_digest_is_that_of_names_sizes_and_ends(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, bytes]) -> str:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return digest((p for p in (tmp_path / name).rglob("*") if p.is_file()), tmp_path / name)

    long = bytes(200_000)
    same = made("a", {"x/y": b"1", "z": long})
    assert made("b", {"x/y": b"1", "z": long}) == same
    others = [
        made("c", {"x/w": b"1", "z": long}), made("d", {"x/y": b"2", "z": long}), made("e", {"x/y": b"1"}),
        made("f", {"x/y": b"1", "z": long + b"\0"}), made("g", {"x/y": b"1", "z": long[:-1] + b"1"}),
        made("h", {"x/y": b"1", "z": b"1" + long[1:]}),
    ]  # fmt: skip
    assert len({same, *others}) == 7


def test_a_damaged_configuration_is_one_line(begun: Path) -> None:
    (begun / "config.toml").write_bytes(b"\xff{")
    with pytest.raises(UserError) as caught:
        resume(begun, Whole(), identities=IDENTITIES)
    assert str(caught.value).startswith(f"{begun / 'config.toml'}: cannot be read")
    assert str(caught.value).endswith(": start a new folder")


@pytest.mark.parametrize("name", ["provenance.json", "clock.json"])
def test_a_damaged_record_of_the_run_is_set_aside_and_written_anew(
    begun: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun / name).write_bytes(b"\xff{")
    Run.create(begun, Whole(), resume=True, identities=IDENTITIES).close()
    line = capsys.readouterr().err
    assert line.startswith(f"{begun / name}: is damaged (") and f"renamed to {name}.damaged: " in line
    assert (begun / f"{name}.damaged").read_bytes() == b"\xff{"
    assert json.loads((begun / name).read_text())
