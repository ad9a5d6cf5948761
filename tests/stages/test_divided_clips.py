"""Ranks that cannot divide the tokens of a clip: a run and its dry run are refused before anything starts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phys4d.cli import main
from phys4d.engine.config import load_toml
from phys4d.engine.errors import UserError
from phys4d.stages.preflight import check
from phys4d.stages.run_file import RunConfig
from tests.stages.released_run import run_text


@pytest.mark.parametrize(
    ("context", "method", "said"), [(5, "auto", "4 tokens of a frame"), (3, "ulysses", "2 heads do not divide over 3")]
)
def test_it_is_said_with_the_key(
    write_clips: Callable[..., Path], opensora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], context: int,
    method: str, said: str,
) -> None:  # fmt: skip
    """Frames of Open-Sora of 32 x 32 pixels have four tokens; this one has two heads."""
    data, run = write_clips(tmp_path / "data", scale=2, count=2), tmp_path / "run.toml"
    run.write_text(run_text(tmp_path / "run", opensora, data, kind="opensora", last_tap=3))
    changes = [f"parallel={{context={context},context_method='{method}'}}"]
    with pytest.raises(UserError) as refusal:
        check(load_toml(run, RunConfig, changes), context)
    assert str(refusal.value).startswith(f"parallel.context: {said}")
    words = ["train", str(run), "--set", changes[0], "--dry-run", "--world-size", str(context), "--clip", "5x32x32"]
    assert main(words) == 2
    assert f"parallel.context: {said}" in capsys.readouterr().err
    check(load_toml(run, RunConfig, ["parallel={context=2}"]), 2)
