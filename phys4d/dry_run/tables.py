"""Predictions as tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from phys4d.engine.costs.gpus import ASSUMED, GIB

KINDS = {
    "parameters": "parameters", "gathered": "gathered weights", "gradients": "gradients", "moments": "moments",
    "EMA": "EMA", "activations": "activations", "codec": "codec", "text encoder": "text encoder",
}  # fmt: skip


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def memory_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """GiB of one GPU by kind; stages: of `Prediction.table`."""
    header = ["GiB of one GPU", *(stage["stage"] for stage in stages)]
    rows = [[title, *(_gib(s["memory"][kind]) for s in stages)] for kind, title in KINDS.items()]
    rows.append(["in all", *(_gib(s["total"]) for s in stages)])
    rows.append(["of", *(_gib(s["available"]) for s in stages)])
    rows.append(["fits", *("yes" if s["fits"] else "no" for s in stages)])
    return table(header, rows)


def sent_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """GB that one GPU receives in a step, by kind; empty where nothing is exchanged."""
    kinds = list(dict.fromkeys(kind for s in stages for kind, size in s["sent"].items() if size))
    if not kinds:
        return ""
    rows = [[kind, *(f"{s['sent'].get(kind, 0) / 1e9:.2f}" for s in stages)] for kind in kinds]
    return table(["GB that one GPU receives in a step", *(s["stage"] for s in stages)], rows)


def time_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """Predicted step time, clips a second and MFU."""
    rows = [
        ["clips in a step", *(str(s["clips"]) for s in stages)],
        ["TFLOP of a step on one GPU", *(f"{s['model_flops'] / 1e12:,.0f}" for s in stages)],
        ["with what is computed again", *(f"{s['hardware_flops'] / 1e12:,.0f}" for s in stages)],
        ["computing, s", *(f"{s['compute']:.2f}" for s in stages)],
        ["step, s", *(f"{s['seconds']:.2f}" for s in stages)],
        ["clips/s in all", *(f"{s['clips'] / s['seconds']:.2f}" for s in stages)],
        ["MFU", *(f"{s['mfu']:.0%}" for s in stages)],
    ]
    return table(["predicted step", *(s["stage"] for s in stages)], rows)


def knob_lines(knobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each way to less memory."""
    return [
        f"- {k['stage']}: {' '.join(f'--set {setting}' for setting in k['settings'])}: {_gib(k['total'])} GiB, "
        f"{'fits' if k['fits'] else 'does not fit'}, {k['seconds']:.2f} s a step"
        for k in knobs
    ]


def assumptions(result: Mapping[str, Any]) -> str:
    """What a prediction rests on."""
    return f"{ASSUMED} A run fits if it leaves {result['margin']:.0%} of the memory free."


def report(result: Mapping[str, Any]) -> str:
    """Everything about one dry run, without what it rests on."""
    stages, (replicate, shard, context) = result["stages"], result["mesh"]
    parts = [
        f"{result['world_size']} x {result['gpu']}, replicate {replicate} x shard {shard} x context {context}; "
        f"clips of {result['clip']}, {stages[0]['tokens']:,} tokens. Predicted, not measured.",
        memory_table(stages),
        sent_table(stages),
        time_table(stages),
    ]
    if result["knobs"]:
        parts.append("\n".join(["To fit:", *knob_lines(result["knobs"])]))
    return "\n\n".join(part for part in parts if part)


def compared(*results: Mapping[str, Any]) -> str:
    """A row for each stage of several dry runs: model, clip, and what it takes of one GPU."""
    rows = []
    for result in results:
        words = result["provenance"]["command"].split()
        changes = [word for flag, word in pairwise(words) if flag == "--set"]
        model = words[words.index("--model") + 1]
        for s in result["stages"]:
            of = f"{_gib(s['available'])}, {'fits' if s['fits'] else 'does not fit'}"
            kept = " ".join(f"`{change}`" for change in changes if not change.startswith("stages"))
            rows.append([model, result["clip"], kept or "-", s["stage"], _gib(s["total"]), of, f"{s['seconds']:.1f}"])
    header = ["model", "clip", "changes", "stage", "GiB of one GPU", "of", "predicted s a step"]
    return table(header, rows)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
