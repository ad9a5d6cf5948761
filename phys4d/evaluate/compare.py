"""`phys4d evaluate --compare`: results of several models on the same clips, as paired differences with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from phys4d.engine import json_text
from phys4d.engine.errors import UserError
from phys4d.evaluate.changes import READ
from phys4d.evaluate.consistency.figures import FIGURES
from phys4d.evaluate.intervals import Interval, bootstrap

LEAST_CLIPS = 10
"""Clips under which nothing is called significant: bootstrap intervals of so few are too narrow."""

OTHER_READER = (
    "  Depth and motion of these two come from different readers: a difference may be that of the readers. Score both "
    "with one --reader."
)
"""Said of rows of the 4D suite; of evaluations the figures that depend on the heads are left out."""

HIGHER = {figure.name: figure.higher_is_better for figure in FIGURES} | {
    "absrel_moving": False, "reward": True, "psnr_moving": True, "original": True, "verified": True,
}  # fmt: skip
"""Figures that are compared, and whether more is better. Others, such as that of zero motion, do not judge a model."""

Verdict = Literal["better", "worse", "no difference shown", "equal", "too few clips"]


@dataclass(frozen=True)
class Results:
    """Results of one model. name: of its file. kind: of the file. figures: name -> clip -> value.

    reader: digest of what reads depth and motion (heads, or teachers for videos), "" where it is not stated.
    """

    name: str
    kind: str
    figures: dict[str, dict[str, float]]
    reader: str = ""


class Difference(NamedTuple):
    """A figure of one model minus that of the first, over the clips that both have.

    first, other: means over these clips. mean, low, high: of the difference, with its 95 % bootstrap interval. clips:
    their number. verdict: in words, about the other model.
    """

    first: float
    other: float
    mean: float
    low: float
    high: float
    clips: int
    verdict: Verdict


def read_results(path: Path) -> Results:
    """Results of a file: ROW.json of `--suite 4d`, STAGE.json of an evaluation, or NAME.json of `--suite physics-iq`,
    whose clips are scenarios.

    Raises UserError for anything else.
    """
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.json"))) or "none"
        raise UserError(f"{path}: is a folder: name one of the results in it (JSON files there: {inside})")
    try:
        table = json_text.loads(json_text.read(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from None
    try:
        if "clips" in table:
            kind, values = "4d", {clip: entry["values"] for clip, entry in table["clips"].items()}
        elif "reader" in table:
            lists = table["scenes"]
            kind = "evaluation"
            values = {
                str(scene): {name: every[scene] for name, every in lists.items()}
                for scene in range(max(map(len, lists.values()), default=0))
            }
        else:
            kind, values = "physics-iq", dict(table["scenarios"])
        figures: dict[str, dict[str, float]] = {name: {} for name in HIGHER}
        for clip, entry in values.items():
            for name in figures.keys() & entry.keys():
                if entry[name] is not None:
                    figures[name][clip] = float(entry[name])
    except (TypeError, KeyError, AttributeError, IndexError, ValueError):
        raise UserError(
            f"{path}: holds no results: expected ROW.json of --suite 4d, STAGE.json of an evaluation, or NAME.json of "
            "--suite physics-iq"
        ) from None
    return Results(path.stem, kind, {name: found for name, found in figures.items() if found}, _reader(table))


def _reader(table: Mapping[str, Any]) -> str:
    return str(table.get("reader", table.get("read_by", "")))


def read_all(paths: Sequence[Path]) -> list[Results]:
    """The results of all files, under names that differ. Raises UserError where they cannot be compared."""
    every = [read_results(path) for path in paths]
    for path, results in zip(paths, every, strict=True):
        if results.kind != every[0].kind:
            raise UserError(f"{path}: has results of {results.kind}, {paths[0]} of {every[0].kind}: compare one kind")
    if len({results.name for results in every}) < len(every):
        every = [
            Results(f"{path.resolve().parent.name}/{results.name}", results.kind, results.figures, results.reader)
            for path, results in zip(paths, every, strict=True)
        ]
    if len({results.name for results in every}) < len(every):
        raise UserError(f"{paths[-1]}: two of the results have one name ({every[-1].name}): rename a file")
    return every


def differences(first: Results, other: Results) -> dict[str, Difference]:
    """Figure -> paired difference over the clips that both measured, in the order of `HIGHER`.

    Figures of evaluations that depend on the heads (`changes.READ`) are left out where the heads differ. Raises
    UserError if no clip has a figure in both.
    """
    skipped = READ if first.kind == "evaluation" and first.reader != other.reader else ()
    found: dict[str, Difference] = {}
    for name in HIGHER:
        before, after = first.figures.get(name, {}), other.figures.get(name, {})
        clips = sorted(before.keys() & after.keys())
        if name in skipped or not clips:
            continue
        change = bootstrap([after[clip] - before[clip] for clip in clips])
        first_mean, other_mean = (math.fsum(side[clip] for clip in clips) / len(clips) for side in (before, after))
        verdict = _verdict(name, change)
        found[name] = Difference(first_mean, other_mean, change.mean, change.low, change.high, change.clips, verdict)
    if not found:
        raise UserError(f"{other.name}: has no clip and figure in common with {first.name}: score both on one dataset")
    return found


def _verdict(name: str, change: Interval) -> Verdict:
    if change.clips < LEAST_CLIPS:
        return "too few clips"
    if change.low == change.high == 0:
        return "equal"
    if change.low <= 0 <= change.high:
        return "no difference shown"
    return "better" if (change.mean > 0) == HIGHER[name] else "worse"


def sentences(first: str, other: str, found: Mapping[str, Difference]) -> list[str]:
    """What is significant, in words.

    first, other: names of the models. found: of `differences`.
    """
    clips = max(difference.clips for difference in found.values())
    lines = [f"{other} against {first}, paired over {clips} clips:"]
    for verdict in ("better", "worse"):
        some = [_phrase(name, change) for name, change in found.items() if change.verdict == verdict]
        lines.append(f"  significantly {verdict} in {len(some)} of {len(found)} figures" + (":" if some else "."))
        lines += [f"    {line}" for line in some]
    for verdict, meaning in (
        ("no difference shown", "no difference that these clips show"),
        ("equal", "equal in every clip"),
        ("too few clips", f"too few clips to say, under {LEAST_CLIPS}"),
    ):
        if names := [name for name, change in found.items() if change.verdict == verdict]:
            lines.append(f"  {meaning}: {', '.join(names)}.")
    judged = sum(change.verdict not in ("too few clips", "equal") for change in found.values())
    if judged:
        lines.append(
            f"  Intervals are 95 % each: of {judged} figures without a real difference, about {0.05 * judged:.2g} "
            "would be called significant by chance."
        )
    return lines


def _phrase(name: str, change: Difference) -> str:
    share = f" ({100 * change.mean / abs(change.first):+.0f} %)" if change.first else ""
    return (
        f"{name}: {change.first:.4g} to {change.other:.4g}{share}, difference {change.mean:+.4g} "
        f"[{change.low:+.4g}, {change.high:+.4g}], {change.clips} clips"
    )


def compare(every: Sequence[Results]) -> dict[str, Any]:
    """The JSON content of a comparison, without NaN: every model against the first.

    "first": its name; "others": name -> "figures" (name -> the fields of `Difference`) and "words" (`sentences`).
    """
    first, *rest = every
    others = {}
    for other in rest:
        found = differences(first, other)
        figures = {
            name: {key: None if value != value else value for key, value in change._asdict().items()}
            for name, change in found.items()
        }
        words = sentences(first.name, other.name, found)
        if first.kind == "4d" and first.reader != other.reader:
            words.append(OTHER_READER)
        others[other.name] = {"figures": figures, "words": words}
    return {"compare": first.kind, "first": first.name, "others": others}
