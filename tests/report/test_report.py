"""The report: complete in one file, true to summary.json and to the evaluations, and honest about what a run lacks."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phys4d.engine.errors import UserError
from phys4d.evaluate.changes import READ
from phys4d.evaluate.intervals import bootstrap
from phys4d.report import gallery
from phys4d.report.readme_picture import picture
from phys4d.report.tables import METRICS, reward_sentence
from phys4d.report.write import write_report
from tests.report.browser import node
from tests.report.finished_run import CAPTION, STAGES, fake_run
from tests.report.test_packing import unpacked


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


def inside(html: str, name: str) -> dict:
    """The JSON of a script element of the page."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)[1])


def test_report_needs_no_second_file_and_no_network(html) -> None:
    page = Page(html)
    assert [address for address in page.addresses if not address.startswith("#")] == []
    addresses = re.findall(r"url\(([^)]*)\)", html)
    assert addresses and all(a.startswith("data:image/webp;base64,") for a in addresses)
    assert not re.search(r"https?:|//[a-z]|@import|file:", re.sub(r'base64,[A-Za-z0-9+/=]+|"data":"[^"]+"', "", html))
    assert not page.tags & {"link", "img", "iframe", "object", "embed"}


def test_the_page_runs_its_own_script_only(html) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    script = re.search(r'<script type="module">(.*?)</script>', html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["connect-src"] == rules["base-uri"] == "'none'" and rules["img-src"] == "data:"
    kinds = [dict(re.findall(r'(\w+)="([^"]*)"', one)).get("type") for one in re.findall(r"<script([^>]*)>", html)]
    assert sorted(set(kinds)) == ["application/json", "module"] and kinds.count("module") == 1
    assert not re.search(r"\bon[a-z]+=", html[: html.index("<script")])


def test_the_scripts_are_sound(html, tmp_path) -> None:
    (tmp_path / "page.mjs").write_text(re.search(r'<script type="module">(.*?)</script>', html, re.DOTALL)[1])
    done = subprocess.run([node(), "--check", tmp_path / "page.mjs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", (tmp_path / "page.mjs").read_text(), flags=re.DOTALL)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)


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


def test_bars_are_the_means_by_category(run, html) -> None:
    scenes = json.loads((run / "evaluation" / "finetune.json").read_text())["scenes"]["epe"]
    (panel,) = re.findall(r'<svg class="panel"[^>]*aria-label="epe by group and stage">.*?</svg>', html)
    shown = [float(text) for text in re.findall(r">(-?[\d.]+)</text>", panel)]
    expected = {"fluid": np.mean(scenes[1::2]), "rigid": np.mean(scenes[::2])}
    assert re.findall(r'text-anchor="end">(\w+)<', panel) == list(expected)
    assert [shown[1], shown[1 + len(STAGES)]] == pytest.approx(list(expected.values()), abs=6e-4)
    widths = [float(w) for w in re.findall(r'<rect class="s1"[^>]*width="([\d.]+)"', panel)]
    assert widths[0] / widths[1] == pytest.approx(expected["fluid"] / expected["rigid"], rel=0.01)
    assert "scenes of each category (fluid 20, rigid 20)" in html


def test_text_of_others_is_escaped(html) -> None:
    assert "<b>red</b>" not in html and inside(html, "index")["clips"][0]["caption"] == CAPTION
    assert "<fast>" not in html and "a <fast> machine" in unescape(html)
    assert "<demo>" not in html


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


def test_a_table_of_an_earlier_version_is_the_users_error(tmp_path) -> None:
    run = fake_run(tmp_path / "run", scenes=1, size=16, frames=5, stages=("pretrain",))
    (run / "evaluation" / "pretrain.json").write_text('{"scenes": {"reward": []}, "reader": "0"}')
    with pytest.raises(UserError, match=r"pretrain\.json, baseline_scenes, names: remove the folder evaluation"):
        write_report(run)


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
