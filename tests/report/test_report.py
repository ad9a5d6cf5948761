"""The report: true to the arrays, the summary and the evaluations of its run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.evaluate.changes import READ
from phys4d.evaluate.intervals import bootstrap
from phys4d.report import gallery
from phys4d.report.readme_picture import picture
from phys4d.report.tables import METRICS, reward_sentence
from phys4d.report.write import write_report
from tests.report.finished_run import STAGES, fake_run
from tests.report.test_packing import unpacked
from tests.report.test_page import Page, inside


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "demo", scenes=3, size=16, frames=9)


@pytest.fixture(scope="module")
def html(run) -> str:
    return write_report(run).read_text()


def test_clips_of_the_page_are_the_arrays_of_the_run(run, html) -> None:
    """Every clip is there, and the true and the generated video come back pixel by pixel, depth within its step."""
    truth, stage = np.load(run / "evaluation" / "truth.npz"), np.load(run / "evaluation" / "reinforce.npz")
    index = inside(html, "index")
    assert [clip["title"] for clip in index["clips"]] == [f"Scene {k}" for k in range(len(truth["keys"]))]
    for k, key in enumerate(truth["keys"]):
        data = inside(html, f"clip-{k}")
        assert (data["key"], data["fps"], data["frames"]) == (key, 8, truth["video"].shape[1])
        assert [row["name"] for row in data["rows"]] == ["truth", *STAGES]
        for row, arrays in ((data["rows"][0], truth), (data["rows"][-1], stage)):
            made = {name: unpacked(data["arrays"][number]) for name, number in row["views"]["generated"].items()}
            assert np.array_equal(made["video"], arrays["video"][k])
            assert np.allclose(made["depth"], arrays["depth"][k], rtol=6e-4)
            assert np.allclose(made["motion"], arrays["motion"][k][:2].swapaxes(0, 1), atol=0.006)
        read = data["rows"][-1]["views"]["read"]
        assert np.allclose(unpacked(data["arrays"][read["depth"]]), stage["read_depth"][k], rtol=6e-4)
        assert read["video"] == data["rows"][0]["views"]["generated"]["video"]


def test_clips_without_room_lie_beside_the_page(run, tmp_path, monkeypatch) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report-clips").mkdir()
    (tmp_path / "run" / "report-clips" / "0009.js").write_text("of an earlier report")
    whole = inside(write_report(tmp_path / "run").read_text(), "clip-1")
    assert not (tmp_path / "run" / "report-clips").exists()
    monkeypatch.setattr(gallery, "EMBEDDED", int(1.5 * len(json.dumps(whole))))
    html = write_report(tmp_path / "run").read_text()
    assert [clip.get("file") for clip in inside(html, "index")["clips"]] == [
        None, "report-clips/0001.js", "report-clips/0002.js"
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "run" / "report-clips").iterdir()) == ["0001.js", "0002.js"]
    text = (tmp_path / "run" / "report-clips" / "0001.js").read_text()
    assert json.loads(text.removeprefix("phys4dClip(1,").removesuffix(");\n")) == whole
    assert 'id="clip-1"' not in html and "2 of the 3 clips are in the folder report-clips" in html


def test_the_table_prints_the_summary(run, html) -> None:
    summary = json.loads((run / "summary.json").read_text())
    rows = re.findall(r'<tr><th scope="row">(\w+) .</?.*?</th>(.*?)</tr>', html)
    assert [name for name, _ in rows] == [metric.key for metric in METRICS]
    columns = ["nothing moves", *STAGES, "true video", "truth"]
    for metric, (_, cells) in zip(METRICS, rows, strict=True):
        still = "zero_motion" if metric.key.startswith("epe") else "static_video"
        figures = [summary["baselines"][still], *(summary["stages"][s] for s in STAGES)]
        figures += [summary["baselines"]["true_video"], summary["baselines"]["truth"]]
        found = re.findall(r'<td class="\w+" data-label="([^"]*)">(.*?)</td>', cells)
        assert [label for label, _ in found] == columns
        for (_, cell), values in zip(found, figures, strict=True):
            shown = re.match(r'<span class="value">(.*?)</span>', cell)
            if metric.key not in values:
                assert shown is None
                continue
            value, *error = re.sub(r"<[^>]+>", " ", shown[1]).replace("−", "-").replace("±", " ").split()
            assert value == f"{values[metric.key]:.{metric.decimals}f}"
            if f"{metric.key}_se" in values:
                assert error == [f"{values[metric.key + '_se']:.{metric.decimals}f}"]


def test_better_and_worse_are_the_paired_changes(run, html, tmp_path) -> None:
    tables = {stage: json.loads((run / "evaluation" / f"{stage}.json").read_text()) for stage in STAGES}
    epe = re.search(r'<tr><th scope="row">epe .*?</tr>', html)[0]
    chips = dict(re.findall(r'data-label="([^"]*)">(?:(?!</td>).)*?<span class="chip (\w+)">', epe))
    assert chips == {"nothing moves": "better", "finetune": "better", "reinforce": "better"}
    old, new = (np.array(tables[stage]["scenes"]["epe"]) for stage in ("pretrain", "finetune"))
    change = bootstrap(new - old)
    numbers = f"{change.mean:.3f} <small>[{change.low:.3f}, {change.high:.3f}]".replace("-", "−")
    assert f"▲ better<span class=\"change\">{numbers}" in epe
    assert "finetune against the stage before</b> <span class=\"better\">▲ better in epe" in html
    reward = re.search(r'<tr><th scope="row">reward .*?</tr>', html)[0]
    assert READ[0] == "reward" and 'data-label="finetune"><span class="value">' in reward  # other heads: no change
    assert len(re.findall('class="chip', reward)) == 1
    shutil.copytree(run, tmp_path / "run")
    tables["reinforce"]["scenes"]["epe"] = [value + 0.5 for value in tables["finetune"]["scenes"]["epe"]]
    (tmp_path / "run" / "evaluation" / "reinforce.json").write_text(json.dumps(tables["reinforce"]))
    worse = write_report(tmp_path / "run").read_text()
    assert '<span class="chip worse">▼ worse<span class="change">+0.500 <small>[0.500, 0.500]' in worse
    tables["reinforce"]["scenes"]["epe"] = tables["finetune"]["scenes"]["epe"]
    (tmp_path / "run" / "evaluation" / "reinforce.json").write_text(json.dumps(tables["reinforce"]))
    assert '<span class="chip same">= equal</span>' in write_report(tmp_path / "run").read_text()


def test_bars_are_the_means_by_category(run, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "evaluation" / "finetune.json"
    table = json.loads(file.read_text())
    scenes = [0.1 * scene for scene in range(40)]  # each changes the mean of its category
    table["scenes"]["epe"] = scenes
    file.write_text(json.dumps(table))
    html = write_report(tmp_path / "run").read_text()
    (panel,) = re.findall(r'<svg class="panel"[^>]*aria-label="epe by group and stage">.*?</svg>', html)
    shown = [float(text) for text in re.findall(r">(-?[\d.]+)</text>", panel)]
    expected = {"fluid": np.mean(scenes[1::2]), "rigid": np.mean(scenes[::2])}
    assert re.findall(r'text-anchor="end">(\w+)<', panel) == list(expected)
    assert [shown[1], shown[1 + len(STAGES)]] == pytest.approx(list(expected.values()), abs=6e-4)
    widths = [float(w) for w in re.findall(r'<rect class="s1"[^>]*width="([\d.]+)"', panel)]
    assert widths[0] / widths[1] == pytest.approx(expected["fluid"] / expected["rigid"], rel=0.01)
    assert "scenes of each category (fluid 20, rigid 20)" in html


def test_every_stage_and_figure_of_the_run_is_stated(run, html) -> None:
    text = Page(html).text
    for words in (
        "512 s (8.5 minutes)",
        "3.0 GiB",
        "0123456789ab",
        "0123456789abcdef-dirty",
        "40 scenes",
        "16 × 16 pixels",
    ):
        assert words in text
    assert "git checkout 0123456789abcdef\nphys4d demo --set a=1" in text
    assert "left out: 1." in text
    for title in (
        "backbone: loss",
        "pretrain: loss",
        "finetune: loss",
        "clip fraction",
        "KL to finetune",
        "ratio, std",
    ):
        assert title in text
    for number, stage in enumerate(STAGES, 1):
        rewards = np.load(run / "evaluation" / f"{stage}.npz")["reward"].tolist()
        notes = [inside(html, f"clip-{k}")["rows"][number]["note"] for k in range(3)]
        assert notes == [f"reward {value:.3f}".replace("-", "−") for value in rewards]


def test_ranked_scenes_come_first_and_once(run, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "evaluation"
    rewards = json.loads((folder / "reinforce.json").read_text())["scenes"]["reward"]
    order = np.argsort(rewards)
    chosen = [int(order[-1]), int(order[len(order) // 2]), int(order[0])]
    (folder / "ranked").mkdir()
    for name in ("truth", *STAGES):
        arrays = dict(np.load(folder / f"{name}.npz"))
        kept = {key: array[[0, 1, 2]] for key, array in arrays.items()}
        if name == "truth":
            kept["keys"] = np.array([f"scene-{scene:04d}" for scene in chosen])
        np.savez(folder / "ranked" / f"{name}.npz", **kept)
    clips = inside(write_report(tmp_path / "run").read_text(), "index")["clips"]
    assert [clip["title"] for clip in clips[:3]] == ["Best reward", "Median reward", "Worst reward"]
    shown = [clip["values"]["reward"] for clip in clips[:3]]
    assert shown == pytest.approx([rewards[scene] for scene in chosen], abs=1e-6)
    assert [clip["title"] for clip in clips[3:]] == [f"Scene {k}" for k in range(3) if k not in chosen]


def test_a_run_without_reinforce_says_so(tmp_path) -> None:
    run = fake_run(tmp_path / "half", scenes=1, size=16, frames=5, stages=("pretrain", "finetune"))
    text = Page(write_report(run).read_text()).text
    assert "This run has no reinforce stage" in text
    assert "Not part of this run: reinforce" in text


def test_reward_sentence_pairs_scenes_and_states_all_outcomes() -> None:
    def stages(old: float, new: float) -> dict:
        return {
            "finetune": {"reward": old, "reward_se": 0.05},
            "reinforce": {"reward": new, "reward_se": 0.05},
        }

    def sentence(figures: dict, before: list[float], after: list[float], readers: dict[str, str]) -> str:
        rewards = {"finetune": before, "reinforce": after}
        return reward_sentence("reinforce", "finetune", figures, rewards, readers)

    scenes, same = [-0.5, -0.3, -0.1], {"finetune": "1", "reinforce": "1"}
    better = sentence(stages(-0.3, -0.28), scenes, [-0.481, -0.28, -0.079], same)
    assert "better" in better and "+0.0200 ± 0.0006" in better and "paired over the same 3 scenes" in better
    worse = sentence(stages(-0.28, -0.3), [-0.481, -0.28, -0.079], scenes, same)
    assert "worse" in worse and "−0.0200" in worse
    assert "no change" in sentence(stages(-0.3, -0.28), [], [], same)
    assert "no change" in sentence(stages(-0.3, -0.3), scenes, scenes, same)
    assert "nothing is concluded" in sentence({"reinforce": {"reward": -0.2}}, [], [], {})
    other = sentence(stages(-0.3, -0.28), scenes, scenes, same | {"reinforce": "2"})
    assert "do not compare" in other and "better" not in other


def test_readme_picture(run, tmp_path) -> None:
    out = tmp_path / "picture.png"
    picture(run, out)
    with Image.open(out) as image:
        assert 900 <= image.width <= 1150 and image.format == "PNG"
