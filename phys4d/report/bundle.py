"""The page as one file: template, style sheet and scripts of page/, and data that no text can break out of."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from phys4d.report.pictures import colour_bar, wheel

SCRIPTS = (
    "codec.js", "colours.js", "clip.js", "elements.js", "points.js", "cloud.js", "transport.js", "viewer.js",
    "gallery.js", "main.js",
)  # fmt: skip
"""Each imports those before it."""
STYLES = ("clips.css", "style.css")


def page(title: str, body: str, data: str = "", *, beside: str = "") -> str:
    """The HTML of a page that needs no network.

    title: of the window, plain text.
    body: HTML.
    data: script elements of `embedded`.
    beside: where scripts outside of the page may come from, as a source of its policy: "file:" for clips beside a
        page, "'self'" for a server's answers; none without.
    """
    folder = files("phys4d.report") / "page"
    style, code = "".join((folder / name).read_text(encoding="utf-8") for name in STYLES), scripts()
    style = style.replace("$viridis", colour_bar("viridis")).replace("$magma", colour_bar("magma"))
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title), style=style.replace("$wheel", wheel()), body=body, data=data, script=code,
        policy=_policy(code, beside),
    )  # fmt: skip


def scripts(names: Sequence[str] = SCRIPTS) -> str:
    """Scripts as one: their imports and the word export are left out, since they share one scope."""
    folder = files("phys4d.report") / "page"
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    joined = "\n".join(re.sub(r"^import .*?;\n", "", text, flags=re.MULTILINE | re.DOTALL) for text in texts)
    return re.sub(r"^export ", "", joined, flags=re.MULTILINE)


def embedded(name: str, content: Any) -> str:
    """A script element with JSON, which is never run: `<` is written as an escape, so that no text ends the element.

    name: id of the element. content: without NaN.
    """
    return f'<script type="application/json" id="{escape(name)}">{json_inside(content)}</script>'


def json_inside(content: Any) -> str:
    """JSON that may stand inside a script. Raises ValueError for NaN and infinities."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _policy(code: str, beside: str) -> str:
    """What the page may load: nothing but what is in it and `beside`; only its own script runs."""
    digest = base64.b64encode(hashlib.sha256(f"\n{code}\n".encode()).digest()).decode("ascii")
    connect = beside if beside == "'self'" else "'none'"
    rules = {
        "default-src": "'none'", "img-src": f"data: {beside}".strip(), "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}' {beside}".strip(), "connect-src": connect, "base-uri": "'none'",
        "form-action": "'none'",
    }  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in rules.items())
