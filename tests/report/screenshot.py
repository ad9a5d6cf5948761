"""The picture of the report in the documentation.

    python -m tests.report.screenshot runs/demo/report.html docs/report.png

opens a finished run's report in headless Chromium, at its clips, in the middle of the first one.
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from tests.report.browser import Opened, address, chromium

SIZE = {"width": 1366, "height": 1330}


def screenshot(report: Path, out: Path) -> None:
    """Writes the PNG."""
    with chromium() as browser:
        opened = Opened(browser, address(report), viewport=SIZE)
        opened.page.locator("#clips").evaluate("section => section.scrollIntoView()")
        opened.page.get_by_label("frame", exact=True).fill("4")
        opened.page.evaluate("document.activeElement.blur()")
        with Image.open(io.BytesIO(opened.page.screenshot())) as image:
            image.convert("RGB").save(out, "PNG", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.report.screenshot", description=__doc__.split("\n")[0])
    parser.add_argument("report", type=Path, help="report.html of a finished run")
    parser.add_argument("out", type=Path, help="a PNG")
    given = parser.parse_args()
    screenshot(given.report, given.out)
