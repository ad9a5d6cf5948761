"""The plot of a result: the peers that it shows, the lengths of the bars, and that no two texts overlap."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest

from phys4d.benchmarks import plots
from phys4d.cli import main

SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"title": 14, "case": 12}


def row(case: str, backend: str, part: str, ms: float, *, floor: float | None = None, same: bool = True) -> dict:
    return {
        "case": case, "backend": backend, "part": part, "ms": ms, "ms_p20": 0.9 * ms, "ms_p80": 1.2 * ms,
        "tflops": 1.0, "gbps": 1.0, "floor_ms": floor, "share": floor / ms if floor else None, "peak_mb": 1.0,
        "error": 1e-3, "deterministic": same,
    }  # fmt: skip


def result(rows: list[dict], device: str = "cuda") -> dict:
    provenance = {
        "torch": "2.13.0", "triton": "3.7.1", "git_revision": "0123456789abcdef", "date": "2026-01-02T00:00:00",
        "gpus": ["GPU of no maker"], "cores": 2, "cpu": "CPU <of> no maker",
    }  # fmt: skip
    return {"kind": "attention", "device": device, "dtype": "bfloat16", "rows": rows, "provenance": provenance}


def peers(times: dict[str, float], floor: float | None = None) -> list[dict]:
    return [
        row(case, name, part, ms * (1 + 1.6 * (part == "backward")), floor=floor, same=name != "sdpa-flash")
        for case in ("one", "two") for part in ("forward", "backward") for name, ms in times.items()
    ]  # fmt: skip


MANY = {"triton": 14.1, "auto": 14.3, "sdpa-flash": 11.9, "naive-compiled": 60.0, "naive": 420.0}
RESULTS = {
    "many peers": result(peers(MANY, floor=9.8)),
    "microseconds": result(peers({name: ms / 1e3 for name, ms in MANY.items()}, floor=0.0098)),
    "minutes": result(peers({name: ms * 1e4 for name, ms in MANY.items()})),
    "one peer": result(peers({"ours": 0.123456})),
    "alike": result(peers({"ours": 3.0, "eager": 3.0})),
    "long names": result(peers({"a-peer-of-a-very-long-name-indeed": 1.0, "x": 7.9})),
    "none measured": result([{"case": "c", "backend": f"peer-{i}", "refused": "why"} for i in range(40)], device="cpu"),
}


def boxes(svg: ElementTree.Element) -> list[tuple[str, float, float, float, float]]:
    """Left, top, right and bottom of every text, in a font with letters 0.61 em wide."""
    found = []
    for text in svg.iter(f"{SVG}text"):
        size = SIZES.get(text.get("class", ""), 11)
        width, x, y = 0.61 * size * len(text.text or ""), float(text.get("x", "")), float(text.get("y", ""))
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
        found.append((text.text or "", left, y - 0.8 * size, left + width, y + 0.2 * size))
    return found


@pytest.mark.parametrize("name", RESULTS)
def test_no_text_lies_on_another_or_leaves_the_page(name) -> None:
    svg = ElementTree.fromstring(plots.plot(RESULTS[name]))
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    texts = boxes(svg)
    assert texts
    for _, left, top, right, bottom in texts:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
    for (a, *first), (b, *second) in itertools.combinations(texts, 2):
        apart = first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
        assert apart, (a, b)
    for bar in svg.iter(f"{SVG}rect"):
        left, right = float(bar.get("x", 0)), float(bar.get("x", 0)) + float(bar.get("width", ""))
        top, bottom = float(bar.get("y", 0)), float(bar.get("y", 0)) + float(bar.get("height", ""))
        if (right - left, bottom - top) != (width, height):
            assert not [t for t, *b in texts if b[0] < right and left < b[2] and b[1] < bottom and top < b[3]]


def test_every_peer_is_there_with_its_bar_its_number_and_its_mark() -> None:
    svg = ElementTree.fromstring(plots.plot(RESULTS["many peers"]))
    words = [text.text for text in svg.iter(f"{SVG}text")]
    for name in MANY:
        assert words.count(name) == 4, name
    assert words.count("one") == 1 and any("share of it reached" in (word or "") for word in words)
    assert "11.9 ms 82%" in words and "time, ms" in words
    assert words[0] == "attention: forward and backward in bfloat16 on GPU of no maker"
    assert "revision 0123456789ab" in (words[1] or "") and "2026-01-02" in (words[1] or "")
    marks = [circle.get("class") for circle in svg.iter(f"{SVG}circle")][2:]  # the first two are the legend's
    assert marks.count("differs") == 4 and marks.count("same") == 16
    bars = [bar for bar in svg.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert [bar.get("class") for bar in bars[:5]] == ["peer", "ours", "auto", "peer", "peer"]
    lengths = [float(bar.get("width", "")) for bar in bars[:5]]
    for length, ms in zip(lengths, sorted(MANY.values()), strict=True):  # the last is cut
        assert length == pytest.approx(lengths[0] * min(ms / 11.9, plots.CUT), abs=0.5)
    assert len([line for line in svg.iter(f"{SVG}line") if line.get("class") == "cut"]) == 8


def test_the_floor_stands_at_its_time_and_only_where_it_is_known() -> None:
    svg = ElementTree.fromstring(plots.plot(RESULTS["many peers"]))
    floors = [line for line in svg.iter(f"{SVG}line") if line.get("class") == "floor"][1:]  # the first is the legend's
    assert len(floors) == 4
    bar = next(bar for bar in svg.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None)
    begin, length = float(bar.get("x", "")), float(bar.get("width", ""))
    assert float(floors[0].get("x1", "")) - begin == pytest.approx(length * 9.8 / 11.9, abs=0.5)
    bare = ElementTree.fromstring(plots.plot(RESULTS["one peer"]))
    assert len([line for line in bare.iter(f"{SVG}line") if line.get("class") == "floor"]) == 1


def test_a_result_of_a_cpu_says_so_and_who_could_not() -> None:
    text = plots.plot(RESULTS["none measured"])
    assert "2 cores of CPU &lt;of&gt; no maker" in text and "say nothing of any GPU" in text and "peer-39" in text


def test_a_committed_result_is_drawn_again(tmp_path, capsys) -> None:
    for name in ("many peers", "none measured"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RESULTS[name]))
    assert main(["bench", "plot", str(tmp_path / "many peers.json"), str(tmp_path / "none measured.json")]) == 0
    assert "none measured.svg" in capsys.readouterr().out
    assert (tmp_path / "many peers.svg").read_text() == plots.plot(RESULTS["many peers"])
    assert "| triton | forward | 14.100 (12.690, 16.920)" in (tmp_path / "many peers.md").read_text()
    assert "- not peer-3: why" in (tmp_path / "none measured.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("{", "is no JSON"), ("[1]", "has no device"), ('{"rows": []}', "has no device, dtype"),
        ('{"kind": "losses", "device": 1, "dtype": 1, "rows": [], "provenance": 1}', "kind 'losses': expected one of")],
)
def test_what_is_no_result_is_refused_with_a_line(tmp_path, content, message, capsys) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(content)
    assert main(["bench", "plot", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error and "that phys4d bench --out wrote" in error
    assert not file.with_suffix(".svg").exists()
