"""The table of what an independent check of simulated truth found.

`python -m tests.simulation.count_wrong_pixels` runs it, with packages for tests.
"""

from typing import Any

from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.rejection_sampling import CameraMotion

CAMERAS: tuple[CameraMotion, ...] = ("static", "moving")


def table(found: dict[str, Any]) -> str:
    """Markdown: a line for each category, both cameras together."""
    lines = [
        "| category | pixels, static | pixels, moving | wrong depth or instance | landing points | wrong visibility |",
        "|---" * 6 + "|",
    ]  # fmt: skip
    for category in CATEGORIES:
        rows = {row["camera"]: row for row in found["rows"] if row["category"] == category}
        sums = [
            sum(row[name] for row in rows.values())
            for name in ("wrong_surfaces", "landing_points", "wrong_visibilities")
        ]
        pixels = [f"{rows[camera]['pixels']:,}" if camera in rows else "-" for camera in CAMERAS]
        lines.append(f"| {category} | {' | '.join(pixels)} | {sums[0]:,} | {sums[1]:,} | {sums[2]:,} |")
    revisions = dict.fromkeys(str(row["provenance"]["git_revision"])[:12] for row in found["rows"])
    return "\n".join([*lines, "", f"Revision {', '.join(revisions)}."])
