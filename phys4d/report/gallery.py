"""The clips of a run for its page: their index, and their data in the page or in files beside it."""

import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from phys4d.engine import toml_text
from phys4d.engine.storage import replace_text
from phys4d.evaluate.folders import ranked_scenes
from phys4d.report.artefacts import MEASURED, Artefacts
from phys4d.report.bundle import embedded, json_inside
from phys4d.report.clip_data import Row, Shown, clip_data
from phys4d.report.pictures import poster
from phys4d.report.ranges import compared_ranges
from phys4d.report.tables import METRICS, number

EMBEDDED = 18 << 20  # bytes of clips in the page; further ones are in files beside it
SIDE = 160  # pixels of the larger side of a clip in the page
BESIDE = "report-clips"  # folder beside report.html

FIGURES = [{"name": m.key, "unit": m.unit, "higher": m.more_is_better, "decimals": m.decimals} for m in METRICS[::-1]]
"""What clips are sorted by; cards show the first."""
Arrays = dict[str, np.ndarray]


class Clips(NamedTuple):
    """What the page needs: script elements, how many clips it has, how many of them are in files, frames and size."""

    data: str
    clips: int
    beside: int
    shape: tuple[int, ...]


def write_clips(run: Artefacts) -> Clips:
    """The index and the data of the best, median and worst scenes, then of the others.

    The first clips, as many as `EMBEDDED` bytes hold, are in the page; the others are written to the folder `BESIDE`,
    which is removed before.
    """
    folder = run.folder / BESIDE
    if folder.is_dir():
        shutil.rmtree(folder)
    entries, inside, room, beside = list[dict[str, Any]](), list[str](), EMBEDDED, 0
    shape: tuple[int, ...] = ()
    for i, (entry, data) in enumerate(run_clips(run)):
        shape = shape or (data["frames"], data["height"] * data["shrunk"], data["width"] * data["shrunk"])
        text = json_inside(data)
        if len(text) <= room:
            inside.append(embedded(f"clip-{i}", data))
            room -= len(text)
        else:
            folder.mkdir(exist_ok=True)
            entry["file"] = f"{BESIDE}/{i:04d}.js"
            replace_text(run.folder / entry["file"], f"phys4dClip({i},{text});\n")
            room, beside = 0, beside + 1
        entries.append(entry)
    if not entries:
        return Clips("", 0, 0, ())
    index = {"figures": FIGURES, "clips": entries}
    return Clips("\n".join([embedded("index", index), *inside]), len(entries), beside, shape)


def run_clips(run: Artefacts) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Entry of the index and data of every clip; a scene that is ranked is not repeated."""
    titles = _titles(run)
    last = run.tables[list(run.tables)[-1]] if run.tables else None
    seen = set()
    for truth, stages in ((run.ranked, run.ranked_stages), (run.truth, run.stages)):
        for k, key in enumerate(str(key) for key in truth["keys"]) if truth else ():
            if key in seen:
                continue
            seen.add(key)
            scene = last["names"]["key"].index(key) if last and key in last["names"]["key"] else None
            data = _data(truth, stages, k, last, scene)
            middle = data["frames"] // 2
            posters = [arrays["video"][k][middle] for arrays in (truth, *list(stages.values())[-1:])]
            yield {
                "title": titles.get(key) or (f"Scene {scene}" if scene is not None else key),
                "caption": data["caption"], "category": data["category"], "family": data["family"],
                "values": {} if last is None or scene is None else _values(last, scene), "poster": poster(posters),
            }, data  # fmt: skip


def _titles(run: Artefacts) -> dict[str, str]:
    """Key -> "best scene" and the like, of the scenes that evaluation/ranked holds."""
    if not run.ranked or not run.tables:
        return {}
    table = run.tables[list(run.tables)[-1]]
    evaluate = (toml_text.loads(run.config) if run.config else {}).get("evaluate") or {}
    chosen = ranked_scenes(table["scenes"]["reward"], evaluate.get("ranked", -(-len(run.ranked["keys"]) // 3)))
    return {str(table["names"]["key"][scene]): f"{rank.capitalize()} reward" for scene, rank in chosen.items()}


def _values(table: dict[str, Any], scene: int) -> dict[str, float]:
    """The figures of one scene after the last stage."""
    found = {metric.key: table["scenes"].get(metric.key, []) for metric in METRICS}
    return {name: round(of[scene], 6) for name, of in found.items() if scene < len(of) and of[scene] is not None}


def _data(
    truth: Arrays, stages: dict[str, Arrays], k: int, table: dict[str, Any] | None, scene: int | None
) -> dict[str, Any]:
    """The data of clip k: the truth, and every stage as generated and as it reads the true video."""
    true = {name: truth[name][k] for name in ("video", "depth", "motion")}
    rows, others = [Row("truth", {"generated": true, "read": true})], []
    for stage in MEASURED:
        if stage not in stages:
            continue
        arrays = stages[stage]
        made = {name: arrays[name][k] for name in ("video", "depth", "motion")}
        read = {"video": true["video"], "depth": arrays["read_depth"][k], "motion": arrays["read_motion"][k]}
        others += [made, {name: read[name] for name in ("depth", "motion")}]
        rows.append(Row(stage, {"generated": made, "read": read}, f"reward {number(float(arrays['reward'][k]), 3)}"))
    names = table["names"] if table and scene is not None else None
    shown = Shown(
        key=str(truth["keys"][k]), caption=str(truth["captions"][k]), fps=float(truth["fps"][k]),
        intrinsics=truth["intrinsics"][k], camera_to_world=truth["camera_to_world"][k],
        category=names["category"][scene] if names else "", family=names["family"][scene] if names else "",
    )  # fmt: skip
    return clip_data(shown, rows, compared_ranges(true, others), SIDE)
