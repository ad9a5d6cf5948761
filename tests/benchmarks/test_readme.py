"""The README's numbers are those of the committed results."""

from pathlib import Path

from phys4d.benchmarks.readme import complete, study

ROOT = Path(__file__).parents[2]


def test_the_table_in_the_readme_is_generated_from_the_committed_run() -> None:
    readme = (ROOT / "README.md").read_text()
    assert complete(readme) == readme


def test_the_page_of_the_policys_study_is_generated_from_the_committed_run() -> None:
    page = (ROOT / "docs" / "policy-study.md").read_text()
    assert study(page) == page and "| shuffled advantages | +0.0006" in page
