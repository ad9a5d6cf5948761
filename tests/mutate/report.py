"""What a mutation run found: counts per module, survivors with their reasons, as a table and as JSON."""

import json
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.mutate.mutations import Mutant

EXPLAINED = Path(__file__).with_name("survivors.toml")
SHARE = 0.05


@dataclass
class Found:
    """A module's mutants that were run, of how many, and those that no test noticed."""

    module: str
    total: int
    run: int = 0
    survivors: list[Mutant] = field(default_factory=list)
    seconds: float = 0.0


def reasons(path: Path = EXPLAINED) -> dict[tuple[str, str, str], str]:
    """Why a survivor is accepted, by file, line and change."""
    entries = tomllib.loads(path.read_text()).get("survivor", [])
    return {(e["file"], e["line"], e["change"]): e["why"] for e in entries}


def unexplained(found: list[Found], known: dict[tuple[str, str, str], str]) -> list[tuple[str, Mutant]]:
    """Survivors without a reason."""
    return [(f.module, m) for f in found for m in f.survivors if (f.module, m.text, m.change) not in known]


def table(found: list[Found], known: dict[tuple[str, str, str], str]) -> str:
    """Markdown: a line per module, then every survivor."""
    lines = ["| module | mutants | run | killed | survived |", "|---|---:|---:|---:|---:|"]
    survivors = [m for f in found for m in f.survivors]
    whole = Found("all", sum(f.total for f in found), sum(f.run for f in found), survivors)
    for f in (*found, whole):
        lines.append(f"| {f.module} | {f.total} | {f.run} | {f.run - len(f.survivors)} | {len(f.survivors)} |")
    lines.append("")
    for f in found:
        for m in f.survivors:
            why = known.get((f.module, m.text, m.change), "**not explained**")
            lines.append(f"- `{f.module}:{m.line}:{m.column}` `{m.change}`: {why}")
    return "\n".join(lines) + "\n"


def write(found: list[Found], known: dict[tuple[str, str, str], str], out: Path) -> None:
    """mutants.md and mutants.json in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "mutants.md").write_text(table(found, known))
    (out / "mutants.json").write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")


def verdict(found: list[Found], known: dict[tuple[str, str, str], str], *, sampled: bool) -> str:
    """One line that says why the run fails, or nothing. Of a sample the share of survivors says little."""
    run, survived = sum(f.run for f in found), sum(len(f.survivors) for f in found)
    if missing := unexplained(found, known):
        module, mutant = missing[0]
        return f"{len(missing)} survivors are not explained in {EXPLAINED.name}, first {module}:{mutant.line}"
    if not sampled and survived > SHARE * run:
        return f"{survived} of {run} mutants survive, more than {SHARE:.0%}: write the tests that notice them"
    return ""
