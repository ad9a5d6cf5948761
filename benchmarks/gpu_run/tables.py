"""What a GPU measured, as the tables of the pages; a sentence where no GPU has."""

import json
from collections.abc import Callable
from typing import Any

from phys4d.benchmarks import results

NOTHING = "No GPU has measured this yet: `python -m phys4d.benchmarks.gpu_run` does."
OURS = {"attention": "triton", "elementwise": "ours", "geometry": "ours", "blocks": "ours, both"}
_OWN = ("auto", "triton", "ours")  # beginnings of names that are no peers


def found(kind: str) -> list[dict[str, Any]]:
    """The committed results of a slice, one for each GPU, by the name of its folder."""
    read = (json.loads(file.read_text()) for file in sorted(results.COMMITTED.glob(f"*/{kind}.json")))
    return [result for result in read if result.get("device") == "cuda"]


def measured(kind: str) -> Callable[[], str]:
    """The function that makes the table of a kind from all committed results of GPUs."""
    return lambda: "\n\n".join(_of_gpu(kind, result) for result in found(kind)) or NOTHING


def _of_gpu(kind: str, result: dict[str, Any]) -> str:
    lines = [
        "| case | part | ours ms | predicted ms | of the floor | fastest peer | its ms | its time / ours |",
        "|---" * 8 + "|",
    ]  # fmt: skip
    rows = [row for row in result["rows"] if "refused" not in row]
    for row in (row for row in rows if row["backend"] == OURS[kind]):
        peers = [
            r for r in rows
            if (r["case"], r["part"]) == (row["case"], row["part"]) and not r["backend"].startswith(_OWN)
        ]  # fmt: skip
        best = min(peers, key=lambda r: r["ms"], default=None)
        predicted = row.get("predicted_ms")
        cells = [
            row["case"], row["part"], f"{row['ms']:.3f}", f"{predicted:.3f}" if predicted else "",
            f"{row['share']:.0%}" if row["share"] else "",
            *((best["backend"], f"{best['ms']:.3f}", f"{best['ms'] / row['ms']:.2f}") if best else ("", "", "")),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    folder = f"../benchmarks/results/{results.gpu_folder(results.machine(result['provenance'], 'cuda'))}"
    links = f"[all peers]({folder}/{kind}.md), [plot]({folder}/{kind}.svg)"
    return "\n".join([*lines, "", f"Measured on {results.origin(result['provenance'], 'cuda')}; {links}."])


def walls() -> str:
    """Predicted and measured minutes of every slice, and what was lost or did not pass."""
    titles = ("GPU", "slice", "cases done", "lost", "minutes predicted", "minutes taken", "checks failed")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for kind in ("check", "attention", "elementwise", "geometry", "blocks", "step"):
        for result in found(kind):
            cases = result["cases"].values()
            done, lost = (sum(case["state"] == state for case in cases) for state in ("done", "lost"))
            predicted, taken = (sum(case[key] for case in cases) / 60 for key in ("predicted_seconds", "seconds"))
            failed = sum(not row.get("passed", True) for row in result["rows"])
            lines.append(
                f"| {results.machine(result['provenance'], 'cuda')} | {kind} | {done} | {lost} | {predicted:.1f} | "
                f"{taken:.1f} | {failed} |"
            )
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def steps() -> str:
    """The training step: milliseconds and memory of the stock transformer and of ours."""
    lines = ["| GPU | blocks | tokens | variant | step ms (p20, p80) | peak MiB |", "|---" * 6 + "|"]
    for result in found("step"):
        gpu = results.machine(result["provenance"], "cuda")
        for row in result["rows"]:
            spread = f"{row['ms']:.0f} ({row['ms_p20']:.0f}, {row['ms_p80']:.0f})"
            lines.append(
                f"| {gpu} | {row['layers']} | {row['tokens']:,} | {row['backend']} | {spread} | {row['peak_mb']:.0f} |"
            )
    return "\n".join(lines) if len(lines) > 2 else NOTHING
