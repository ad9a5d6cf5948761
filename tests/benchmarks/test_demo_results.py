"""The committed results of a demo name no folder of the machine on which it ran."""

from pathlib import Path

import pytest

from phys4d.benchmarks import demo, results
from phys4d.report import readme_picture


@pytest.mark.parametrize("relative", [False, True])
def test_the_folder_of_the_run_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    """A run may name its folder relative to where it was started, and its models by their whole paths."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "somewhere" / "demo"
    run.mkdir(parents=True)
    named = run.relative_to(tmp_path) if relative else run
    for name in demo.FILES:
        (run / name).write_text(f'folder = "{named}"\ndata = "{run}/data/train"\n')
    monkeypatch.setattr(results, "COMMITTED", tmp_path / "results")
    monkeypatch.setattr(readme_picture, "picture", lambda *given: None)
    demo.keep(run)
    for name in demo.FILES:
        kept = (tmp_path / "results" / "demo" / name).read_text()
        assert kept == 'folder = "runs/demo"\ndata = "runs/demo/data/train"\n'


def test_no_committed_result_names_a_temporary_folder() -> None:
    files = [path for path in results.COMMITTED.rglob("*.*") if path.suffix in (".json", ".jsonl", ".toml")]
    assert files and not [path for path in files if "/tmp/" in path.read_text()]
