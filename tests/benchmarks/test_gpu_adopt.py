"""Adopting the results of a GPU: files, tables, plots and pages; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from phys4d.benchmarks import publish, results
from phys4d.benchmarks.gpu_run import adopt, record, tables
from phys4d.benchmarks.gpu_run.__main__ import main
from phys4d.benchmarks.gpu_run.record import Record, RecordError
from phys4d.kernels.attention import measured
from tests.benchmarks.gpu_results import PROVENANCE, about

ROOT = Path(__file__).parents[2]
@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of the pages and results that adopting changes."""
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for page in {part.page for part in publish.PARTS if not part.page.startswith("docs/")}:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    monkeypatch.setattr(results, "COMMITTED", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "tables")
    return tmp_path


def row(backend: str, part: str, ms: float, **more) -> dict:
    return {
        "case": "wan-5b", "backend": backend, "part": part, "ms": ms, "ms_p20": ms, "ms_p80": ms, "rounds": 25,
        "host_ms": 0.1, "tflops": 1.0, "gbps": 1.0, "floor_ms": 11.6, "share": 11.6 / ms, "peak_mb": 1.0,
        "error": 0.001, "deterministic": True, "compile_s": 2.0, "predicted_ms": None, **more,
    }  # fmt: skip


def measured_folder(folder: Path, **changes) -> Path:
    rows = [row("triton", part, ms, predicted_ms=21.1) for part, ms in (("forward", 20.0), ("backward", 80.0))] + [
        row("sdpa-cudnn", part, ms) for part, ms in (("forward", 15.0), ("backward", 40.0))
    ]
    rows.append({"case": "wan-5b", "backend": "sdpa-math", "refused": "out of memory", "wanted_mb": 36_352.0})
    folder.mkdir()
    found = Record(folder / "attention.json", about("attention", **changes))
    found.finish("wan-5b", "done", 44.0, 45.0, rows=rows)
    tuned = Record(folder / "tune.json", about("tune", **changes))
    tuned.finish("choices", "done", 0.1, 1.0, rows=[], table={"gpu": "NVIDIA H200", "classes": []})
    return folder


def test_results_of_a_gpu_are_adopted_with_tables_plots_and_pages(checkout, capsys) -> None:
    before = (checkout / "docs" / "geometry-kernels.md").read_text()
    assert main(["adopt", str(measured_folder(checkout / "out"))]) == 0
    place = checkout / "benchmarks" / "results" / "h200"
    assert {file.name for file in place.iterdir()} == {"attention.json", "attention.md", "attention.svg"}
    kept = json.loads((place / "attention.json").read_text())
    assert kept["provenance"] == PROVENANCE and len(kept["rows"]) == 5
    assert kept["cases"]["wan-5b"]["seconds"] == 44.0 and "rows" not in kept["cases"]["wan-5b"]
    assert "| triton | forward | 20.000" in (place / "attention.md").read_text()
    page = (checkout / "docs" / "attention-kernels.md").read_text()
    assert "| wan-5b | forward | 20.000 | 21.100 | 58% | sdpa-cudnn | 15.000 | 0.75 |" in page
    assert "Measured on NVIDIA H200, torch 2.11.0, revision 0123456789ab, 2026-01-02" in page
    assert "| NVIDIA H200 | attention | 1 | 0 | 0.8 | 0.7 | 0 |" in (checkout / "docs" / "gpu-run.md").read_text()
    assert (checkout / "docs" / "geometry-kernels.md").read_text() == before
    assert json.loads((checkout / "tables" / "nvidia-h200.json").read_text())["gpu"] == "NVIDIA H200"
    assert str(place / "attention.json") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stand_in": True, "device": "cpu"}, "a rehearsal, whose figures no GPU produced"),
        ({"device": "cpu"}, "measured on a CPU"), ({"provenance": {"gpus": []}}, "measured on a CPU"),
        ({"provenance": {"git_revision": None}}, "names no revision"),
    ],
)  # fmt: skip
def test_what_no_gpu_produced_is_not_adopted(checkout, changes, message, capsys) -> None:
    before = {file: file.read_bytes() for file in checkout.rglob("*") if file.is_file()}
    folder = measured_folder(checkout / "out", **changes)
    assert main(["adopt", str(folder)]) == 2
    assert message in capsys.readouterr().err
    shutil.rmtree(folder)
    assert {file: file.read_bytes() for file in checkout.rglob("*") if file.is_file()} == before


def test_results_of_two_gpus_or_of_none_are_not_adopted(checkout) -> None:
    folder = measured_folder(checkout / "out")
    other = Record(folder / "check.json", about("check", provenance={"gpus": ["NVIDIA A100"]}))
    other.finish("wan-5b", "done", 1.0, 1.0, rows=[])
    with pytest.raises(RecordError, match="several GPUs or revisions"):
        adopt.adopt(folder)
    with pytest.raises(RecordError, match="holds no file of a slice"):
        adopt.adopt(checkout / "docs")


def test_without_results_of_a_gpu_the_tables_say_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(results, "COMMITTED", tmp_path)
    for text in (tables.measured("attention")(), tables.walls(), tables.steps()):
        assert text == tables.NOTHING
    assert record.FINISHED == ("done", "lost", "refused")


def test_a_revision_that_the_run_could_not_find_is_given_when_adopting(checkout) -> None:
    folder = measured_folder(checkout / "out", provenance={"git_revision": None})
    assert main(["adopt", str(folder), "--revision", "fedcba9876543210"]) == 0
    kept = json.loads((checkout / "benchmarks" / "results" / "h200" / "attention.json").read_text())
    assert kept["provenance"]["git_revision"] == "fedcba9876543210"
