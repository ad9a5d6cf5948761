"""The page of a report: complete in one file, running its own script only, and honest about what a run lacks."""

import base64
import hashlib
import json
import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from phys4d.engine.errors import UserError
from phys4d.report.write import write_report
from tests.report.browser import node
from tests.report.finished_run import CAPTION, fake_run


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


def test_text_of_others_is_escaped(html) -> None:
    assert "<b>red</b>" not in html and inside(html, "index")["clips"][0]["caption"] == CAPTION
    assert "<fast>" not in html and "a <fast> machine" in unescape(html)
    assert "<demo>" not in html


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
