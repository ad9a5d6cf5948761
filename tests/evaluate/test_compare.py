"""Comparison of results: pairing, verdicts and words, the files that are read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.cli import main
from phys4d.evaluate.compare import HIGHER, Results, compare, differences, read_all, read_results, sentences
from phys4d.evaluate.metrics import METRICS


def results(name: str, reader: str = "", kind: str = "4d", **figures: list[float]) -> Results:
    named = {figure: {f"clip{i}": v for i, v in enumerate(values)} for figure, values in figures.items()}
    return Results(name, kind, named, reader)


def suite_file(path: Path, **figures: list[float | None]) -> Path:
    """A ROW.json of the suite with these values of clips a, b, ..."""
    count = len(next(iter(figures.values())))
    clips = {chr(97 + i): {"category": "", "values": {n: v[i] for n, v in figures.items()}} for i in range(count)}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"suite": "4d", "row": path.stem, "clips": clips}))
    return path


def test_differences_are_paired_by_clip_and_judged_by_the_direction_of_the_figure() -> None:
    base = np.linspace(1, 50, 20)  # clips differ far more than the models
    step = 0.1 + 0.01 * np.sin(np.arange(20))
    first = results("A", epe=list(base), mask_iou=list(base), rmse=list(base), tae=list(base))
    less, around = list(base - step), list(base + step - 0.1)
    other = results("B", epe=less, mask_iou=less, rmse=list(base), tae=around)
    found = differences(first, other)
    verdicts = {name: change.verdict for name, change in found.items()}
    assert verdicts == {"rmse": "equal", "epe": "better", "tae": "no difference shown", "mask_iou": "worse"}
    epe = found["epe"]
    assert epe.mean == pytest.approx(-step.mean()) and epe.first == pytest.approx(base.mean())
    assert -0.11 < epe.low < epe.mean < epe.high < -0.09 and epe.clips == 20
    back = differences(other, first)["epe"]
    assert back.verdict == "worse" and back.mean == -epe.mean


def test_only_clips_that_both_have_count_in_any_order() -> None:
    first = results("A", epe=[1.0] * 15)
    shuffled = dict(reversed([*first.figures["epe"].items()]))
    other = Results("B", "4d", {"epe": {clip: 2.0 for clip in shuffled if clip != "clip3"} | {"more": 900.0}})
    change = differences(first, other)["epe"]
    assert (change.clips, change.first, change.other, change.mean) == (14, 1, 2, 1)


def test_few_clips_are_not_judged() -> None:
    found = differences(results("A", epe=[1.0] * 9), results("B", epe=[2.0] * 9))
    assert found["epe"].verdict == "too few clips"
    assert differences(results("A", epe=[1.0] * 10), results("B", epe=[2.0] * 10))["epe"].verdict == "worse"


def test_figures_of_other_heads_are_left_out() -> None:
    first = results("A", "one", "evaluation", reward=[1.0] * 12, chamfer_4d=[1.0] * 12, epe=[1.0] * 12)
    other = results("B", "two", "evaluation", reward=[2.0] * 12, chamfer_4d=[2.0] * 12, epe=[2.0] * 12)
    assert list(differences(first, other)) == ["epe"]
    same = Results("B", "evaluation", other.figures, "one")
    assert differences(first, same)["reward"].verdict == "better"


def test_rows_of_other_readers_keep_their_figures_and_are_called_that(tmp_path: Path) -> None:
    files = [suite_file(tmp_path / f"{name}.json", epe=[1.0] * 12) for name in "ABC"]
    for path, digest in zip(files, ("one", "two", "one"), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"read_by": digest}))
    found = compare(read_all(files))["others"]
    assert list(found["B"]["figures"]) == ["epe"] and "come from different readers" in found["B"]["words"][-1]
    assert not any("readers" in line for line in found["C"]["words"])


def test_words_say_what_is_significant() -> None:
    first = results("A", epe=[2.0] * 12, rmse=[1.0] * 12, tae=[1.0, -1.0] * 6, delta1=[0.5] * 12, absrel=[1.0])
    other = results("B", epe=[1.0] * 12, rmse=[1.0] * 12, tae=[-1.0, 1.0] * 6, delta1=[0.25] * 12, absrel=[3.0])
    assert sentences("A", "B", differences(first, other)) == [
        "B against A, paired over 12 clips:",
        "  significantly better in 1 of 5 figures:",
        "    epe: 2 to 1 (-50 %), difference -1 [-1, -1], 12 clips",
        "  significantly worse in 1 of 5 figures:",
        "    delta1: 0.5 to 0.25 (-50 %), difference -0.25 [-0.25, -0.25], 12 clips",
        "  no difference that these clips show: tae.",
        "  equal in every clip: rmse.",
        "  too few clips to say, under 10: absrel.",
        "  Intervals are 95 % each: of 3 figures without a real difference, about 0.15 would be called significant by "
        "chance.",
    ]


def test_chance_alone_is_seldom_significant() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        noise = random.normal(size=(2, 30))
        found = differences(results("A", epe=list(noise[0])), results("B", epe=list(noise[1])))
        wrong += found["epe"].verdict != "no difference shown"
    assert 2 <= wrong <= 20  # 5 % of 200 are 10


def test_every_metric_of_an_evaluation_that_judges_a_model_has_a_direction() -> None:
    assert set(METRICS) - set(HIGHER) == {"epe_zero", "epe_zero_moving"}
    others = {name: HIGHER[name] for name in ("absrel_moving", "reward", "psnr_moving", "original", "verified")}
    assert others == {
        "absrel_moving": False, "reward": True, "psnr_moving": True, "original": True, "verified": True,
    }  # fmt: skip


def test_the_command_compares_every_result_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        suite_file(tmp_path / name / "ball.json", epe=[value] * 12, tae=[None] * 12)
        for name, value in (("A", 0.0), ("B", 1.0))
    ]
    third = suite_file(tmp_path / "C.json", epe=[0.5] * 12)
    out = tmp_path / "out.json"
    assert main(["evaluate", "--compare", *map(str, [*files, third]), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert table["first"] == "A/ball" and list(table["others"]) == ["B/ball", f"{tmp_path.name}/C"]
    assert table["others"]["B/ball"]["figures"]["epe"] == {
        "first": 0, "other": 1, "mean": 1, "low": 1, "high": 1, "clips": 12, "verdict": "worse",
    }  # fmt: skip
    assert printed == [line for other in table["others"].values() for line in other["words"]]


def test_results_of_evaluations_and_of_physics_iq_are_read(tmp_path: Path) -> None:
    stage, benchmark = tmp_path / "finetune.json", tmp_path / "model.json"
    scenes = {"epe": [1.0, None, 3.0], "epe_zero": [9.0] * 3}
    stage.write_text(json.dumps({"means": {}, "scenes": scenes, "reader": "abc", "left_out": []}))
    found = read_results(stage)
    assert (found.kind, found.reader, found.figures) == ("evaluation", "abc", {"epe": {"0": 1.0, "2": 3.0}})
    scenario = {"original": None, "verified": 40.0, "views": 3}
    benchmark.write_text(json.dumps({"fps": 24, "scenarios": {"ball": scenario}, "verified": 40.0}))
    assert read_results(benchmark).figures == {"verified": {"ball": 40.0}}
    assert compare([found, found])["others"]["finetune"]["figures"]["epe"]["low"] == 0


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = suite_file(tmp_path / "one.json", epe=[1.0]), suite_file(tmp_path / "two.json", tae=[1.0])

    def refused(*words: Any) -> str:
        assert main(["evaluate", "--compare", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error.removeprefix("phys4d: error: ").rstrip()

    assert refused(one) == f"--compare {one}: expected two results or more"
    assert refused(one, two) == "two: has no clip and figure in common with one: score both on one dataset"
    assert refused(one, tmp_path / "no.json").startswith(f"{tmp_path}/no.json: cannot be read: No such file")
    assert refused(one, tmp_path) == (
        f"{tmp_path}: is a folder: name one of the results in it (JSON files there: one.json, two.json)"
    )
    for text in ("[1]", '{"clips": 3}', '{"clips": {"a": {"values": {"epe": "x"}}}}', "{}", '{"reader": "a"}'):
        (tmp_path / "bad.json").write_text(text)
        assert refused(one, tmp_path / "bad.json").startswith(f"{tmp_path}/bad.json: holds no results: expected "), text
    (tmp_path / "bad.json").write_text("{")
    assert "cannot be read: is no JSON" in refused(one, tmp_path / "bad.json")
    (tmp_path / "stage.json").write_text(json.dumps({"reader": "a", "scenes": {"epe": [1.0]}}))
    assert refused(one, tmp_path / "stage.json") == (
        f"{tmp_path}/stage.json: has results of evaluation, {one} of 4d: compare one kind"
    )
    assert refused(one, one) == f"{one}: two of the results have one name ({tmp_path.name}/one): rename a file"
    assert refused(one, two, "--suite", "4d").startswith("--compare: takes results that are there: ")
    assert [results.name for results in read_all([one, two])] == ["one", "two"]
