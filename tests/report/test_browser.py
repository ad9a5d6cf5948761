"""The report in headless Chromium: players and points are operated by mouse and keys, at two widths, light and dark."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phys4d.report import gallery
from phys4d.report.write import write_report
from tests.report import finished_run
from tests.report.browser import DESKTOP, PHONE, Opened, address, chromium
from tests.report.finished_run import STAGES, fake_run

ATTACK = '</script><script>window.attacked = 1</script><img src=x onerror="window.attacked = 2"> & "quoted"'

MOVED = "before => document.querySelector('.count').textContent.split(' ·')[0] !== before"  # on to another frame


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose first caption attacks the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished_run, "CAPTION", ATTACK)
        return fake_run(tmp_path_factory.mktemp("browser") / "<i>run", scenes=4, size=32, frames=9)


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return write_report(run)


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def content(opened: Opened, canvas: str) -> np.ndarray:
    """int [H, W, 3] of a panel's canvas."""
    found = opened.page.locator(canvas).first.evaluate("c => c.toDataURL('image/png').split(',')[1]")
    return pixels(base64.b64decode(found))


def panel(row: str, column: str) -> str:
    return f'.players canvas[aria-label^="{row}: {column}"]'


def frame(opened: Opened) -> str:
    return opened.page.locator(".transport .count").inner_text().split(" ·")[0]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_is_whole_at_every_width_and_in_the_dark(browser, report, viewport, dark) -> None:
    opened = Opened(browser, address(report), viewport=viewport, dark=dark)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 200) == dark
    assert page.locator(".card").count() == 4 and page.locator(".players canvas").count() == 3 + 4 * len(STAGES)
    for part in (".glance", ".card", "svg.panel", ".transport", "canvas.cloud"):
        box = page.locator(part).first.bounding_box()
        assert box and box["width"] > 60 and box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"] + 1, part
    for text in page.locator("section h2").all():
        assert text.is_visible()
    assert pixels(opened.picture("canvas.cloud")).std() > 10
    assert opened.said == [] and opened.outside() == []
    opened.context.close()


def test_text_of_others_runs_nothing(browser, report) -> None:
    opened = Opened(browser, address(report))
    assert opened.page.evaluate("window.attacked") is None
    assert opened.page.locator(".title .caption").inner_text() == ATTACK
    assert opened.page.locator(".card .caption").first.text_content() == ATTACK
    assert "<i>run" in opened.page.title() and opened.page.locator("h1 i").count() == 0
    assert opened.said == [] and opened.outside() == []
    opened.context.close()


def test_panels_show_the_arrays_of_the_run(browser, run, report) -> None:
    truth, stage = np.load(run / "evaluation" / "truth.npz"), np.load(run / "evaluation" / "reinforce.npz")
    opened = Opened(browser, address(report))
    for name, arrays in (("truth", truth), ("reinforce", stage)):
        assert np.array_equal(content(opened, panel(name, "RGB")), arrays["video"][0, 0])
    opened.page.locator(".viewer").press("End")
    assert np.array_equal(content(opened, panel("reinforce", "RGB")), stage["video"][0, -1])
    opened.page.locator("select[aria-label='models show']").select_option("read")
    assert np.array_equal(content(opened, panel("reinforce", "RGB")), truth["video"][0, -1])
    relative = abs(stage["read_depth"][0] / truth["depth"][0] - 1)
    caption = opened.page.locator(".players figcaption").last.inner_text().split()
    assert float(caption[0]) == pytest.approx(100 * relative[-1].mean(), abs=0.06)
    assert float(caption[-1].strip("()")) == pytest.approx(100 * relative.mean(), abs=0.06)
    opened.page.locator("select[aria-label='error']").select_option("motion")
    error = np.hypot(*(stage["read_motion"][0] - truth["motion"][0])[:2])
    caption = opened.page.locator(".players figcaption").last.inner_text().split()
    assert caption[1] == "px" and float(caption[0]) == pytest.approx(error[-1].mean(), abs=0.006)
    assert opened.said == []
    opened.context.close()


def test_the_player_obeys_buttons_keys_and_the_slider(browser, report) -> None:
    opened = Opened(browser, address(report))
    page, viewer = opened.page, opened.page.locator(".viewer")
    assert frame(opened) == "0 / 8"
    before = content(opened, panel("truth", "RGB"))
    page.get_by_label("one frame on").click()
    assert frame(opened) == "1 / 8" and not np.array_equal(content(opened, panel("truth", "RGB")), before)
    page.get_by_label("back one frame").click()
    assert np.array_equal(content(opened, panel("truth", "RGB")), before)
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 8), ("ArrowLeft", 7), ("Home", 0)):
        viewer.press(key)
        assert frame(opened) == f"{expected} / 8", key
    page.get_by_label("frame", exact=True).fill("5")
    assert frame(opened) == "5 / 8"
    viewer.press(">")
    assert page.get_by_label("speed").input_value() == "1"
    viewer.press(" ")
    assert page.locator(".play").get_attribute("aria-pressed") == "true"
    page.wait_for_function(MOVED, arg="5 / 8")
    viewer.press(" ")
    stopped = frame(opened)
    assert page.locator(".play").get_attribute("aria-pressed") == "false"
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert frame(opened) == stopped
    page.locator(".play").click()
    page.wait_for_function(MOVED, arg=stopped)
    assert opened.said == []
    opened.context.close()


def test_the_points_orbit_zoom_and_follow_the_frame(browser, report) -> None:
    opened = Opened(browser, address(report))
    page = opened.page
    page.locator("canvas.cloud").scroll_into_view_if_needed()
    first = pixels(opened.picture("canvas.cloud"))
    assert first.std() > 10
    box = page.locator("canvas.cloud").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 90, middle[1] + 30, steps=4)
    page.mouse.up()
    turned = pixels(opened.picture("canvas.cloud"))
    assert abs(turned - first).mean() > 3
    page.mouse.wheel(0, -400)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    near = pixels(opened.picture("canvas.cloud"))
    assert abs(near - turned).mean() > 3
    page.locator("canvas.cloud").press("ArrowLeft")
    assert abs(pixels(opened.picture("canvas.cloud")) - near).mean() > 1
    page.get_by_text("reset").click()
    again = pixels(opened.picture("canvas.cloud"))
    assert abs(again - first).mean() < 1
    page.locator(".viewer").press("End")
    assert abs(pixels(opened.picture("canvas.cloud")) - again).mean() > 0.3
    found = {}
    for layout in ("truth", "model", "over", "beside"):
        page.get_by_label("points").select_option(layout)
        found[layout] = pixels(opened.picture("canvas.cloud"))
    assert all(abs(found[a] - found[b]).mean() > 0.3 for a in found for b in found if a < b)
    page.get_by_label("colour").select_option("source")
    tinted = pixels(opened.picture("canvas.cloud"))
    half = tinted.shape[1] // 2
    blue, orange = (part[part.max(-1) - part.min(-1) > 60].mean(0) for part in (tinted[:, :half], tinted[:, half:]))
    assert blue[2] > blue[0] + 40 and orange[0] > orange[2] + 40
    page.locator(".viewer").press("o")
    yaw = page.evaluate("phys4dGallery.viewer.points.cloud.yaw")
    page.wait_for_function("yaw => phys4dGallery.viewer.points.cloud.yaw > yaw + 0.05", arg=yaw)
    assert page.locator(".orbit").get_attribute("aria-pressed") == "true" and opened.said == []
    opened.context.close()


def test_the_truth_seen_from_its_camera_is_its_picture(browser, report) -> None:
    """With no turn and no move, the points of the truth fall on the pixels that they were lifted from."""
    opened = Opened(browser, address(report))
    page = opened.page
    page.get_by_label("points").select_option("truth")
    page.evaluate("""() => {
      const { viewer } = phys4dGallery;
      const { cloud, canvas } = viewer.points;
      const [x, y, z] = cloud.target;
      Object.assign(cloud, { yaw: 0, pitch: 0, zoom: Math.hypot(x, y, z) / z, shift: [x / z, -y / z] });
      canvas.style.cssText = 'width: 320px; height: 320px';
      viewer.points.frustum = new Float32Array(0);
      viewer.draw(0);
    }""")
    seen = pixels(opened.picture("canvas.cloud"))
    picture = content(opened, panel("truth", "RGB"))
    shown = seen[5::10, 5::10]
    inner = (slice(2, -2), slice(2, -2))
    assert shown.shape == picture.shape
    close = (abs(shown - picture).max(-1) < 12)[inner]
    assert close.mean() > 0.9
    opened.context.close()


def test_values_under_the_pointer_are_stated(browser, run, report) -> None:
    truth = np.load(run / "evaluation" / "truth.npz")
    opened = Opened(browser, address(report))
    canvas = opened.page.locator(panel("truth", "depth")).first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 10.5 / 32, box["y"] + box["height"] * 20.5 / 32)
    text = opened.page.locator(".readout").inner_text()
    assert text.startswith("pixel (10, 20): truth") and f"truth {truth['depth'][0, 0, 20, 10]:.3f} m"[:-3] in text
    assert all(stage in text for stage in STAGES)
    opened.context.close()


def test_cards_open_filter_and_sort(browser, run, report) -> None:
    opened = Opened(browser, address(report))
    page = opened.page
    captions = [card.text_content() for card in page.locator(".card .caption").all()]
    page.locator(".card").nth(2).click()
    page.wait_for_selector("html[data-opened='2']")
    assert page.locator(".title .caption").inner_text() == captions[2]
    page.locator(".viewer").press("]")
    page.wait_for_selector("html[data-opened='3']")
    page.get_by_label("category").select_option("fluid")
    assert [card.get_attribute("data-clip") for card in page.locator(".card").all()] == ["1", "3"]
    page.get_by_label("category").select_option("")
    rewards = np.load(run / "evaluation" / "reinforce.npz")["reward"]
    page.get_by_label("sort by").select_option(label="reward, worst first")
    order = [int(card.get_attribute("data-clip")) for card in page.locator(".card").all()]
    assert order == np.argsort(rewards).tolist()
    assert opened.said == []
    opened.context.close()


def test_many_clips_open_at_once_and_are_read_from_files_beside_the_page(browser, tmp_path, monkeypatch) -> None:
    """Two hundred clips: sixty cards at first, and one clip decoded at a time; without its folder a clip says so."""
    monkeypatch.setattr(gallery, "EMBEDDED", 200_000)
    run = fake_run(tmp_path / "many", scenes=200, size=16, frames=5, stages=("pretrain",))
    opened = Opened(browser, address(write_report(run)))
    page = opened.page
    assert page.locator(".card").count() == 60 and page.locator(".more").inner_text() == "140 more"
    page.locator(".more").click()
    assert page.locator(".card").count() == 120
    page.locator(".card").nth(100).click()
    page.wait_for_selector("html[data-opened='100']")
    assert page.locator(".title .key").inner_text().startswith("scene-0100")
    truth = np.load(run / "evaluation" / "truth.npz")["video"]
    assert np.array_equal(content(opened, panel("truth", "RGB")), truth[100, 0])
    assert opened.said == [] and opened.outside() == []
    assert any(url.endswith("report-clips/0100.js") for url in opened.requests)
    shutil.rmtree(run / gallery.BESIDE)
    page.locator(".card").nth(101).click()
    page.wait_for_selector(".message:not(:empty)")
    assert "0101.js is absent; keep the folder beside the page" in page.locator(".message").inner_text()
    opened.context.close()
