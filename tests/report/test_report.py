"""The report: complete in one file, true to summary.json, and honest about what a run lacks."""

import base64
import io
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.engine.errors import UserError
from phys4d.evaluate.changes import READ
from phys4d.report.pictures import layout
from phys4d.report.readme_picture import picture
from phys4d.report.tables import METRICS, reward_sentence
from phys4d.report.write import write_report
from tests.report.finished_run import CAPTION, STAGES, fake_run


class Page(HTMLParser):
    """Collects addresses, cell texts of the first table of figures, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "poster")]

    def handle_data(self, data) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "demo", scenes=3, size=16, frames=9)


@pytest.fixture(scope="module")
def html(run) -> str:
    return write_report(run).read_text()


def test_report_needs_no_second_file_and_no_network(html) -> None:
    page = Page(html)
    assert page.addresses == []
    addresses = re.findall(r"url\(([^)]*)\)", html)
    assert addresses and all(a.startswith("data:image/webp;base64,") for a in addresses)
    assert not re.search(r"https?:|//[a-z]|@import|file:", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    assert not page.tags & {"link", "img", "iframe", "object", "embed"}


def test_clips_of_the_page_are_the_arrays_of_the_run(run, html) -> None:
    """Every clip is there, and the true RGB and the generated RGB come back pixel by pixel."""
    truth, stage = np.load(run / "evaluation" / "truth.npz"), np.load(run / "evaluation" / "reinforce.npz")
    count, frames, height, width = truth["video"].shape[:4]
    assert html.count('class="clip"') == count * (3 + 2 * 4 + 3 + 3 * 4)
    columns, rows = layout(frames)
    true = re.findall(r"--truth-rgb:url\([^,]*,([^)]*)\)", html)
    made = re.findall(r"--sheet:url\([^,]*,([^)]*)\)[^>]*><div[^>]*aria-label=.reinforce: RGB.>", html)
    for contents, video in ((true, truth["video"]), (made, stage["video"])):
        assert len(contents) == count
        for content, clip in zip(contents, video, strict=True):
            with Image.open(io.BytesIO(base64.b64decode(content))) as image:
                tiles = np.asarray(image).reshape(rows, height, columns, width, 3).swapaxes(1, 2)
            assert np.array_equal(tiles.reshape(-1, height, width, 3)[:frames], clip)


def test_table_prints_the_summary(run, html) -> None:
    summary = json.loads((run / "summary.json").read_text())
    table = html[html.index('<table class="figures">') : html.index("</table>", html.index('<table class="figures">'))]
    rows = re.findall(r"<tr[^>]*><th>([a-z ]+)(?:<small>[^<]*</small>)?</th>(.*?)</tr>", table.split("<tbody>")[1])
    baselines = ["zero motion", "static video", "true video", "truth"]
    assert [name for name, _ in rows] == [*STAGES, "pretrain to finetune", *baselines]
    for name, cells in rows:
        change = name in summary["changes"]
        kind = "changes" if change else "stages" if name in STAGES else "baselines"
        figures = summary[kind][name.replace(" ", "_") if kind == "baselines" else name]
        for metric, cell in zip(METRICS, re.findall(r"<td[^>]*>(.*?)</td>", cells), strict=True):
            if metric.key not in figures:
                assert cell == "–"
                continue
            value, *error = re.sub(r"<[^>]+>", " ", cell).replace("−", "-").replace("±", " ").split()
            assert value == f"{figures[metric.key]:{'+' if change else ''}.{metric.decimals}f}"
            if f"{metric.key}_se" in figures:
                assert error == [f"{figures[metric.key + '_se']:.{metric.decimals}f}"]
    best = {
        m.key: (max if m.more_is_better else min)(
            summary["stages"][s][m.key] for s in (STAGES[1:] if m.key in READ else STAGES)
        )
        for m in METRICS
    }
    marked = [float(v.replace("−", "-")) for v in re.findall(r'<td class="best">([−\d.]+)', table)]
    assert sorted(marked) == pytest.approx(sorted(best.values()), abs=6e-4)


def test_text_of_others_is_escaped(html) -> None:
    assert "<b>red</b>" not in html and CAPTION in Page(html).text
    assert "<fast>" not in html and "a <fast> machine" in unescape(html)
    assert "<demo>" not in html


def test_every_stage_and_figure_of_the_run_is_told(run, html) -> None:
    text = Page(html).text
    for words in (
        "512 s (8.5 minutes)",
        "3.0 GiB",
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
    for stage in STAGES:
        rewards = np.load(run / "evaluation" / f"{stage}.npz")["reward"]
        assert all(f"reward {value:.3f}".replace("-", "−") in text for value in rewards.tolist())
    assert text.count("worst of those shown") == len(STAGES)


def test_worst_scene_of_the_last_stage_is_open(run, html) -> None:
    worst = int(np.argmin(np.load(run / "evaluation" / "reinforce.npz")["reward"]))
    scenes = re.findall(r'<details class="scene"( open)?[^>]*><summary><b>Scene (\d)', html)
    assert [int(k) - 1 for opened, k in scenes if opened] == sorted({0, 1, worst})


def test_failures_are_shown_with_every_stage(run, tmp_path) -> None:
    assert "evaluation/failures is absent" in write_report(run).read_text()
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "evaluation"
    (folder / "failures").mkdir()
    for name in ("truth", *STAGES):
        arrays = np.load(folder / f"{name}.npz")
        np.savez(folder / "failures" / f"{name}.npz", **{key: arrays[key][[2, 0]] for key in arrays.files})
    html = write_report(tmp_path / "run").read_text()
    failures = html[html.index("<h2>Failures</h2>") :]
    assert re.findall(r"<b>Failure (\d)</b> .*?<small>([^<]*)</small>", failures) == [
        ("1", "scene-0002"), ("2", "scene-0000")
    ]  # fmt: skip
    for stage in STAGES:
        value = float(np.load(folder / f"{stage}.npz")["reward"][2])
        assert f"reward {value:.3f}".replace("-", "−") in failures


def test_a_run_without_reinforce_says_so(tmp_path) -> None:
    run = fake_run(tmp_path / "half", scenes=1, size=16, frames=5, stages=("pretrain", "finetune"))
    text = Page(write_report(run).read_text()).text
    assert "This run has no reinforce stage" in text
    assert "not part of this run" in text and "evaluation/reinforce.npz is absent" in text


def test_summary_alone_makes_a_report(tmp_path) -> None:
    (tmp_path / "summary.json").write_text('{"stages": {"pretrain": {"absrel": NaN, "delta1": 0.5}}}')
    text = Page(write_report(tmp_path).read_text()).text
    for words in (
        "truth.npz is absent",
        "metrics.jsonl is absent",
        "config.toml is absent",
        "not recorded",
        "0.5000",
    ):
        assert words in text


def test_missing_summary_is_the_users_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"summary\.json.*resume the run"):
        write_report(tmp_path)


def test_incomplete_arrays_are_the_users_error(tmp_path) -> None:
    run = fake_run(tmp_path / "run", scenes=1, size=16, frames=5, stages=("pretrain",))
    np.savez(run / "evaluation" / "pretrain.npz", video=np.zeros(1))
    with pytest.raises(UserError, match=r"pretrain\.npz, read_depth"):
        write_report(run)


def test_reward_sentence_pairs_scenes_and_tells_all_outcomes() -> None:
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
