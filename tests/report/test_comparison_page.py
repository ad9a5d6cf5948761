"""The page of `phys4d evaluate --compare`: every figure of the JSON in the colour of its verdict, and nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from phys4d.cli import main
from tests.report.browser import PHONE, address, chromium


def row(path: Path, **figures: np.ndarray) -> Path:
    """A ROW.json of the 4D suite with these values of its clips."""
    count = len(next(iter(figures.values())))
    clips = {f"clip{i}": {"category": "", "values": {n: v[i] for n, v in figures.items()}} for i in range(count)}
    path.write_text(json.dumps({"suite": "4d", "row": path.stem, "clips": clips}))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 2, 30)
    noise = rng.normal(0, 0.01, 30)
    first = row(folder / "a<i>.json", epe=base, mask_iou=base, rmse=base, tae=base)
    around = base + noise - noise.mean()
    second = row(folder / "b.json", epe=base - 0.1 + noise, mask_iou=base - 0.1, rmse=base, tae=around)
    third = row(folder / "c.json", epe=base + 0.2)
    files = [str(path) for path in (first, second, third)]
    assert main(["evaluate", "--compare", *files, "--out", str(folder / "page.html")]) == 0
    assert main(["evaluate", "--compare", *files, "--out", str(folder / "table.json")]) == 0
    return folder / "page.html"


def test_the_page_states_the_json(page: Path) -> None:
    html, found = page.read_text(), json.loads(page.with_name("table.json").read_text())
    rows = dict(re.findall(r'<tr><th scope="row">(\w+) .*?</th>(.*?)</tr>', html))
    assert set(rows) == {"epe", "mask_iou", "rmse", "tae"}
    kinds = {name: re.findall(r'<span class="chip (\w+)">', cells) for name, cells in rows.items()}
    assert kinds == {"epe": ["better", "worse"], "mask_iou": ["worse"], "rmse": ["same"], "tae": ["same"]}
    epe = found["others"]["b"]["figures"]["epe"]
    for value in (epe["mean"], epe["low"], epe["high"], epe["first"], epe["other"]):
        assert f"{value:.4g}".replace("-", "−") in rows["epe"]
    assert "▲ better in 1" in html and "▼ worse in 1" in html and "2 of 4 show no difference" in html
    assert all(line.replace("<", "&lt;").replace(">", "&gt;") in html for line in found["others"]["c"]["words"])
    assert "<i>" not in html.replace("</i>", "") and "a&lt;i&gt;" in html


def test_the_page_needs_nothing_from_outside_and_fits_a_phone(page: Path) -> None:
    assert not re.search(r"https?:|(src|href)=", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text()))
    with chromium() as browser:
        context = browser.new_context(viewport=PHONE)
        shown, said, asked = context.new_page(), [], []
        shown.on("console", lambda message: said.append(message.text))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(address(page))
        assert shown.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        colours = [shown.locator(f".chip.{kind}").first.evaluate("c => getComputedStyle(c).backgroundColor")
                   for kind in ("better", "worse", "same")]  # fmt: skip
        assert len(set(colours)) == 3 and said == []
        assert [url for url in asked if not url.startswith("data:")] == [address(page)]
