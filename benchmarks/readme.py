"""Writes the README's tables and picture from results.

`python -m phys4d.benchmarks.readme runs/demo` takes a finished demo over into benchmarks/results/demo/ and
docs/demo.png; without a folder, the README is filled again from what is committed.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from phys4d.benchmarks import phases, policy, train

ROOT = Path(__file__).resolve().parent
COLUMNS = (
    ("absrel", "AbsRel"),
    ("delta1", "delta1"),
    ("epe", "EPE px"),
    ("epe_moving", "EPE moving px"),
    ("warp_l1", "warp L1 m"),
    ("chamfer_4d", "4D Chamfer m"),
    ("psnr_moving", "PSNR moving dB"),
    ("reward", "reward"),
)


def demo_table(summary: dict) -> str:
    """The markdown table of a demo's summary.json: rows of mean ± standard error over scenes."""
    lines = ["| after stage | " + " | ".join(title for _, title in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for stage, row in summary["stages"].items():
        cells = [f"{row[name]:.4f} ± {row[name + '_se']:.4f}" for name, _ in COLUMNS]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    for name, row in summary["changes"].items():
        cells = [f"{row[key]:+.4f} ± {row[key + '_se']:.4f}" if key in row else "" for key, _ in COLUMNS]
        lines.append(f"| *{name}, paired* | " + " | ".join(cells) + " |")
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


def complete(readme: str) -> str:
    """The README with its tables filled in: the demo's, and those of `phases` and `train` once they have been run."""
    done = filled(readme, "demo", demo_table(demo_summary()))
    if phases.done():
        done = filled(done, "phases", phases.table(phases.summary()))
    measured = train.summary()
    return filled(done, "train", train.table(measured)) if measured else done


def write() -> None:
    """Fills the README of this checkout, and the page of the policy's study."""
    readme = ROOT.parent / "README.md"
    readme.write_text(complete(readme.read_text()))
    page = ROOT.parent / "docs" / "policy-study.md"
    page.write_text(study(page.read_text()))


def study(page: str) -> str:
    """The page of the policy's study with its tables filled in, where it has been run."""
    figures = policy.summary()
    if figures is None:
        return page
    return filled(filled(page, "policy", policy.table(figures)), "rewards", policy.forms_table(figures))


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
    from phys4d.report.readme_picture import picture

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
    write()
