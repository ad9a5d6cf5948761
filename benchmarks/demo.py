"""The demo's table in the README: quality after every stage.

    python -m phys4d.benchmarks.demo runs/demo

copies what a finished demo measured to benchmarks/results/demo/ and draws docs/demo.png, the README's picture.
"""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results

FILES = ("config.toml", "metrics.jsonl", "summary.json", "provenance.json")
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "demo.png"
# Metric -> title of its column with its unit, as in the tables of `phases` and `policy`.
METRICS = {
    "absrel": "AbsRel",
    "delta1": "delta1",
    "epe": "EPE px",
    "epe_moving": "EPE moving px",
    "warp_l1": "warp L1 m",
    "chamfer_4d": "4D Chamfer m",
    "psnr_moving": "PSNR moving dB",
    "reward": "reward",
}


def table(summary: dict[str, Any]) -> str:
    """The markdown table of a demo's summary.json: mean ± standard error over scenes, one row per stage."""
    lines = ["| after stage | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for stage, row in summary["stages"].items():
        cells = [f"{row[name]:.4f} ± {row[name + '_se']:.4f}" for name in METRICS]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    for name, row in summary["changes"].items():
        cells = [f"{row[key]:+.4f} ± {row[key + '_se']:.4f}" if key in row else "" for key in METRICS]
        lines.append(f"| *{name}, paired* | " + " | ".join(cells) + " |")
    for name, row in summary["baselines"].items():
        cells = [f"{row[key]:.4f}" if key in row else "" for key in METRICS]
        lines.append(f"| *{name.replace('_', ' ')}* | " + " | ".join(cells) + " |")
    cost = f"{summary['seconds']:.0f} s in all, {summary['peak_rss_mb']:.0f} MB at most"
    return "\n".join([*lines, "", f"{cost}, {results.origin(summary['provenance'])}."])


def keep(demo: Path) -> None:
    """Copies the results of a finished demo to benchmarks/results/demo/ and draws the README's picture.

    Wherever the demo's folder was, its files name it runs/demo.
    """
    from phys4d.report.readme_picture import picture

    folder = results.COMMITTED / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    place = tomllib.loads((demo / "config.toml").read_text())["folder"]
    for name in FILES:
        text = (demo / name).read_text().replace(str(demo.resolve()), "runs/demo")
        (folder / name).write_text(text.replace(place, "runs/demo"))
    picture(demo, PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.demo", description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    keep(parser.parse_args().demo)
