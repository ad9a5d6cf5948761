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

STAGES = ("pretrain", "finetune", "reinforce")
CAPTION = 'a <b>red</b> sphere & a "blue" cube'


def sphere_clip(rng, size: int, frames: int) -> dict[str, np.ndarray]:
    """A sphere of constant velocity before a tilted wall: analytic colour, depth and motion."""
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    velocity, centre = rng.uniform(-1, 1, 2) * size / 30, rng.uniform(0.35, 0.65, 2) * size
    radius, approach = rng.uniform(0.12, 0.2) * size, rng.uniform(-0.03, 0.03)
    colour = rng.uniform(80, 255, 3)
    video, depth, instance = [], [], []
    for t in range(frames):
        du, dv = columns - centre[0] - velocity[0] * t, rows - centre[1] - velocity[1] * t
        inside = du**2 + dv**2 < radius**2
        bulge = np.sqrt(np.maximum(1 - (du**2 + dv**2) / radius**2, 0))
        depth.append(np.where(inside, 2.2 - 0.3 * bulge + approach * t, 4 - 1.2 * rows / size))
        shade = np.where(inside, 0.45 + 0.55 * bulge, 0.55 + 0.1 * ((rows // 6 + columns // 6) % 2))
        video.append(np.where(inside[..., None], colour, 170.0) * shade[..., None])
        instance.append(inside)
    moving = np.stack(instance)[:-1]
    motion = np.stack([moving * velocity[0], moving * velocity[1], moving * approach])
    return {"video": np.stack(video), "depth": np.stack(depth), "motion": motion, "moving": moving}


def smooth_noise(rng, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of variance 1, alike over some four pixels as a model's errors are, with a little that is not."""
    rows, columns = (np.fft.fftfreq(n)[:, None] ** 2 for n in shape[-2:])
    spectrum = np.fft.fft2(rng.standard_normal(shape)) * np.exp(-100 * (rows + columns.T))
    blurred = np.fft.ifft2(spectrum).real
    return blurred / blurred.std() + 0.1 * rng.standard_normal(shape)


def fake_run(folder: Path, *, scenes: int, size: int, frames: int, stages: tuple[str, ...] = STAGES) -> Path:
    """Write the files of a finished run: analytic truth; stages are the truth with ever less noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation").mkdir()
    clips = [sphere_clip(rng, size, frames) for _ in range(scenes)]
    truth = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    truth["video"] = truth["video"].clip(0, 255).astype(np.uint8)
    truth = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in truth.items()}
    intrinsics = np.tile(np.eye(3, dtype=np.float32), (scenes, frames, 1, 1))
    captions = np.array([CAPTION] + [f"a sphere moves, variant {k}" for k in range(1, scenes)])
    np.savez(
        folder / "evaluation" / "truth.npz", **truth, visible=truth["moving"], intrinsics=intrinsics,
        captions=captions, keys=np.array([f"scene-{k:04d}" for k in range(scenes)]),
    )  # fmt: skip
    summary: dict = {"stages": {}, "baselines": {}}
    for i, stage in enumerate(STAGES):
        if stage not in stages:
            continue
        level = (1.0, 0.35, 0.3)[i]
        rewards = -0.3 * level + 0.02 * rng.standard_normal(40)
        arrays = {}
        for prefix in ("read_", ""):
            noise = smooth_noise(rng, truth["depth"].shape)
            arrays[prefix + "depth"] = (truth["depth"] * np.exp(0.1 * level * noise)).astype(np.float32)
            motion = truth["motion"] + 0.3 * level * smooth_noise(rng, truth["motion"].shape)
            arrays[prefix + "motion"] = motion.astype(np.float32)
        soft = 30 * level * smooth_noise(rng, truth["depth"].shape)[..., None]
        video = (truth["video"] + soft).clip(0, 255).astype(np.uint8)
        np.savez(
            folder / "evaluation" / f"{stage}.npz",
            **arrays,
            video=video,
            reward=rewards[:scenes].astype(np.float32),
        )
        table = {"scenes": {"reward": rewards.tolist()}}
        (folder / "evaluation" / f"{stage}.json").write_text(json.dumps(table))
        figures = {m.key: float(rng.uniform(0.01, 1)) for m in METRICS} | {"reward": float(rewards.mean())}
        errors = {f"{name}_se": abs(value) / 20 for name, value in figures.items()}
        summary["stages"][stage] = figures | errors | {"psnr_moving": 14.25 + i, "psnr_moving_se": 0.31}
    change = {"absrel": -0.0125, "absrel_se": 0.001, "delta1": 0.02, "delta1_se": 0.0}
    summary["changes"] = {"pretrain to finetune": change}
    summary["baselines"] = {
        "zero_motion": {"epe": 0.0893, "epe_moving": 1.6217},
        "static_video": {"chamfer_4d": 0.19, "reward": -2.0, "psnr_moving": 11.4},
        "true_video": {"chamfer_4d": 0.1, "reward": -0.17},
        "truth": {"chamfer_4d": 0.0, "reward": 0.0},
    }
    summary["readers"] = {stage: "0" if stage == "pretrain" else "1" for stage in summary["stages"]}
    summary |= {
        "seconds": 512.3,
        "peak_rss_mb": 3120.5,
        "stage_seconds": {"backbone": 210.0, "pretrain": 61.0},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    provenance = {
        "git_revision": "0123456789abcdef-dirty", "torch": "2.13.0", "flash": None, "cpu": "a <fast> machine",
        "cores": 2, "gpus": [], "date": "2026-01-02T03:04:05+00:00",
        "command": "/somewhere/bin/phys4d demo --set a=1",
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "config.toml").write_text('name = "<demo>"\n[evaluate]\nscenes = 40\nsamples = 4\n')
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in fake_metrics(rng, stages)))
    return folder


def fake_metrics(rng, stages: tuple[str, ...]) -> list[str]:
    """Log lines of all stages, one half line among them as a kill leaves it."""
    lines = []
    for stage in ("backbone", *[stage for stage in stages if stage != "reinforce"]):
        for step in range(10, 1400, 10):
            loss = (0.02 + np.exp(-step / 60)) * rng.uniform(0.8, 1.25)
            entry = {"loss": loss, "grad_norm": 1.0, "depth_loss": loss / 2, "bad": None}
            lines.append(json.dumps({"stage": stage, "step": step, "time": 0.0, **entry}))
    if "reinforce" in stages:
        for step in range(1, 26):
            policy = {"reward": -0.3 + 0.001 * step + 0.01 * rng.standard_normal(), "reward_group_std": 0.02}
            policy |= {"ratio": 1.0, "ratio_std": 4e-3 * rng.uniform(), "clip_fraction": 0.1 * rng.uniform()}
            policy |= {"kl": 1e-6 * step**2}
            lines.append(json.dumps({"stage": "reinforce", "step": step, "time": 0.0, **policy}))
    return [*lines, '{"stage": "rein']


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
