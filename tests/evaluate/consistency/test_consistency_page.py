"""The page of the 4D suite: every figure and curve stands there, and their number is right."""

import re
from pathlib import Path

from phys4d.evaluate.consistency.figures import CURVES, FIGURES

PAGE = "docs/consistency-4d.md"


def test_every_figure_and_curve_is_defined(repository: Path) -> None:
    text = (repository / PAGE).read_text()
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    names = set()
    for cell in table:
        first, *others = re.findall(r"`(\w+)`", cell)
        names |= {first, *(first + other if other.startswith("_") else other for other in others)}
    forms = {name for name in names if name.startswith("_")}
    assert forms == {"_scaled", "_aligned"}
    names |= {name + form for name in ("absrel", "delta1", "rmse") for form in forms}
    assert {figure.name for figure in FIGURES} == names - forms
    drift = text.partition("**Drift.**")[2].split("\n\n")[0]
    assert tuple(re.findall(r"`(\w+)`", drift)) == CURVES
    for page in (PAGE, "README.md", "CHANGELOG.md"):
        assert f"{len(FIGURES)} figures" in (repository / page).read_text(), page
