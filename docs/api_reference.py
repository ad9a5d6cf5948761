"""Writes the API reference from docstrings to build/api: `make docs`, with pdoc of the extra `dev`."""

import re
from pathlib import Path

MODULES = (
    "phys4d.kernels.attention",
    "phys4d.kernels.elementwise",
    "phys4d.kernels.geometry",
    "phys4d.kernels.integrate.diffusers",
    "phys4d.engine",
    "phys4d.clips",
    "phys4d.evaluate",
    "phys4d.importers",
    "phys4d.models",
    "phys4d.report",
    "phys4d.rewards",
    "phys4d.simulation",
    "phys4d.stages",
    "phys4d.teachers",
)
OUT = Path(__file__).resolve().parents[1] / "build" / "api"


def parameters_as_list(docstring: str) -> str:
    """Markdown of a docstring whose lines "name: text" become list items."""
    return re.sub(r"^(\w+(?:, \w+)*): ", r"- **\1**: ", docstring, flags=re.MULTILINE)


def write(out: Path) -> None:
    """Writes one HTML page for each module, and index.html, to the folder `out`."""
    import pdoc
    import pdoc.render

    pdoc.render.configure(docformat="markdown")
    pdoc.render.env.filters["to_markdown"] = parameters_as_list
    pdoc.pdoc(*MODULES, output_directory=out)


if __name__ == "__main__":
    write(OUT)
    print(f"API reference: {OUT / 'index.html'}")
