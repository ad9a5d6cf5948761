"""Every generated part of the README and of docs/ is what the committed results give, and no part is left out."""

import re
from pathlib import Path

import pytest

from phys4d.benchmarks import publish, results
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, NORM_ROPE
from phys4d.benchmarks.publish import PARTS, Part, filled

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"^<!-- (/?)(.+?) -->$", re.MULTILINE)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.page}, {part.name}")
def test_a_part_is_what_its_committed_results_give(part: Part) -> None:
    assert f"<!-- {part.name} -->\n{part.text()}\n<!-- /{part.name} -->" in (ROOT / part.page).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_mark_of_a_page_belongs_to_a_part_and_every_part_has_its_marks(page: Path) -> None:
    name = page.relative_to(ROOT).as_posix()
    marks = MARK.findall(page.read_text())
    wanted = [part.name for part in PARTS if part.page == name]
    assert [mark for closing, mark in marks if not closing] == [mark for closing, mark in marks if closing]
    assert sorted(mark for closing, mark in marks if not closing) == sorted(wanted)


@pytest.mark.parametrize("page", dict.fromkeys(part.page for part in PARTS))
def test_a_page_is_complete(page: str) -> None:
    assert publish.complete(page) == (ROOT / page).read_text()


def test_every_source_is_a_committed_result() -> None:
    for part in PARTS:
        for source in part.sources:
            assert (results.COMMITTED / source).is_file(), source


def test_publishing_replaces_what_stands_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter \\1\n<!-- b -->\nx\n<!-- /b -->\n")
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "PARTS", (Part("page.md", "a", (), lambda: r"new \\1"),))
    publish.publish()
    text = (tmp_path / "page.md").read_text()
    assert text == "before\n<!-- a -->\nnew \\\\1\n<!-- /a -->\nafter \\1\n<!-- b -->\nx\n<!-- /b -->\n"


@pytest.mark.parametrize("text", ["no marks", "<!-- a -->\nunclosed", 2 * "<!-- a -->\nx\n<!-- /a -->\n"])
def test_a_page_without_exactly_one_pair_of_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one <!-- a -->"):
        filled(text, "a", "new")


def test_predictions_name_every_case_forward_and_backward_and_say_that_they_are_not_measured() -> None:
    for page, cases in (
        (publish.ATTENTION_PAGE, ATTENTION), (publish.ELEMENTWISE_PAGE, (*NORM_ROPE, *ADAPTIVE_NORM)),
    ):  # fmt: skip
        (part,) = (part for part in PARTS if (part.page, part.name) == (page, "predictions"))
        text = part.text()
        assert text.startswith("Predicted for one H200, never measured")
        assert all(text.count(f"| {case.name} |") == 2 for case in cases)


def test_the_study_of_the_policy_shows_its_control() -> None:
    assert "| shuffled advantages | +0.0006" in (ROOT / publish.POLICY_PAGE).read_text()
