"""Writes the README's tables and picture from results.

`python -m phys4d.benchmarks.readme runs/demo` takes a finished demo over into benchmarks/results/demo/ and
docs/demo.png; without a folder, the README is filled again from what is committed.
"""

import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).resolve().parent
COLUMNS = (
    ("absrel", "AbsRel"),
    ("delta1", "delta1"),
    ("epe", "EPE px"),
    ("epe_moving", "EPE moving px"),
    ("warp_l1", "warp L1 m"),
    ("chamfer_4d", "4D Chamfer m"),
    ("reward", "reward"),
)


def demo_table(summary: dict) -> str:
    """The markdown table of a demo's summary.json: one row per stage, mean ± standard error over held-out scenes."""
    lines = stage_rows(summary["stages"])
    for name, row in summary["baselines"].items():
        cells = [f"{row[key]:.4f}" if key in row else "" for key, _ in COLUMNS]
        lines.append(f"| *{name.replace('_', ' ')}* | " + " | ".join(cells) + " |")
    where = summary["provenance"]
    lines += [
        "",
        f"{summary['seconds']:.0f} s in all, {summary['peak_rss_mb']:.0f} MB at most, {where['cores']} cores of "
        f"{where['cpu']}, torch {where['torch']}, revision {str(where['git_revision'])[:12]}, {where['date'][:10]}.",
    ]
    return "\n".join(lines)


def stage_rows(stages: dict[str, dict[str, float]]) -> list[str]:
    """The header and one line per stage."""
    lines = ["| after stage | " + " | ".join(title for _, title in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for stage, row in stages.items():
        cells = [f"{row[name]:.4f} ± {row[name + '_se']:.4f}" for name, _ in COLUMNS]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return lines


def unseen_table(tables: dict[str, dict]) -> str:
    """The same stages on scenes that nothing was chosen on, and the paired change from pretrain to finetune."""
    lines = stage_rows({stage: table["means"] for stage, table in tables.items()})
    for before, after in pairwise(tables):
        cells = []
        for name, _ in COLUMNS:
            pairs = zip(tables[before]["scenes"][name], tables[after]["scenes"][name], strict=True)
            change = [b - a for a, b in pairs if a is not None and b is not None]
            cells.append(f"{fmean(change):+.4f} ± {stdev(change) / len(change) ** 0.5:.4f}")
        lines.append(f"| *{before} to {after}, paired* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def unseen_tables() -> dict[str, dict]:
    """The committed evaluations, by stage."""
    folder = ROOT / "results" / "demo" / "unseen"
    return {stage: json.loads((folder / f"{stage}.json").read_text()) for stage in demo_summary()["stages"]}


def complete(readme: str) -> str:
    """The README with every table filled in."""
    return filled(filled(readme, "demo", demo_table(demo_summary())), "unseen", unseen_table(unseen_tables()))


def filled(readme: str, name: str, table: str) -> str:
    """The README with what stands between `<!-- name -->` and `<!-- /name -->` replaced; ValueError without them."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"README.md: no <!-- {name} --> ... <!-- /{name} -->")
    return pattern.sub(lambda match: match.group(1) + table + match.group(2), readme)


def demo_summary() -> dict:
    """The committed result behind the README's table."""
    return json.loads((ROOT / "results" / "demo" / "summary.json").read_text())


def adopt(run: Path) -> None:
    """Copies what a demo measured, and how, from its folder, and draws the README's picture of it."""
    from phys4d.evaluate.readme_picture import picture

    folder = ROOT / "results" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.toml", "metrics.jsonl", "summary.json", "provenance.json"):
        shutil.copyfile(run / name, folder / name)
    docs = ROOT.parent / "docs"
    docs.mkdir(exist_ok=True)
    picture(run, docs / "demo.png")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        adopt(Path(sys.argv[1]))
    readme = ROOT.parent / "README.md"
    readme.write_text(complete(readme.read_text()))
