"""Scores folders of generated videos: checks all of them first, then compares view by view on several processes."""

import json
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from phys4d.engine.errors import UserError
from phys4d.engine.output import check_folder, write_file
from phys4d.evaluate.physics_iq.bars import bar_plot
from phys4d.evaluate.physics_iq.comparison import ViewMeasures, compare
from phys4d.evaluate.physics_iq.layout import View, generated_videos, read_descriptions, views_of
from phys4d.evaluate.physics_iq.scores import Row, summary
from phys4d.evaluate.physics_iq.table import csv_table
from phys4d.evaluate.physics_iq.video import Length, check_length, frame_rate

Variant = Literal["original", "verified"]


@dataclass(frozen=True)
class Prepared:
    """A folder whose videos are all there: its name, frames a second, the views with the video of each, and notices."""

    name: str
    fps: int
    pairs: list[tuple[View, Path]]
    notices: list[str]


def prepare(folder: Path, benchmark: Path, descriptions: Path | None = None) -> Prepared:
    """Checks a folder of generated videos against the benchmark: names, frame rates, lengths; milliseconds a video.

    folder: of generated videos. benchmark: folder of the real ones. descriptions: file, if not the benchmark's own.

    Raises UserError.
    """
    first = next(iter(sorted(folder.glob("*.mp4"))), None) if folder.is_dir() else None
    if first is None:
        raise UserError(f"{folder}: no videos: expected files such as 0001_NAME.mp4")
    fps = frame_rate(first)
    kinds = {row.scenario: row.kind for row in read_descriptions(benchmark, descriptions)}
    views = views_of(benchmark, fps, kinds)
    videos = generated_videos(folder, views)
    cut = []
    for path in videos.values():
        if (found := frame_rate(path)) != fps:
            raise UserError(f"{path}: {found} frames a second, and {first.name} has {fps}: expected one rate")
        if check_length(path, Length(fps, generated=True)):
            cut.append(path.name)
    notices = []
    if cut:
        notices.append(f"{folder}: {len(cut)} of {len(videos)} videos are longer than 5 seconds, and are cut: {cut[0]}")
    if views[0].masks is None:
        notices.append(f"{benchmark}: no masks of the real videos at {fps} frames a second: they are made")
    return Prepared(folder.resolve().name, fps, [(view, videos[view.ids[0]]) for view in views], notices)


def measure(prepared: Prepared, workers: int, progress: Callable[[int, int], None]) -> list[Row]:
    """Compares every view of a folder, in the benchmark's order whatever the number of processes.

    prepared: the folder. workers: processes, 1 for this one alone. progress: is given done and all views.

    Raises UserError of the first view that cannot be compared.
    """
    found: dict[int, ViewMeasures] = {}
    if workers == 1:
        for index, (view, path) in enumerate(prepared.pairs):
            found[index] = compare(view, path, prepared.fps)
            progress(len(found), len(prepared.pairs))
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
            jobs = {
                pool.submit(compare, view, path, prepared.fps): index
                for index, (view, path) in enumerate(prepared.pairs)
            }
            try:
                for job in as_completed(jobs):
                    found[jobs[job]] = job.result()
                    progress(len(found), len(jobs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [Row(view, found[index]) for index, (view, _) in enumerate(prepared.pairs)]


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def score_folders(
    folders: Sequence[Path], benchmark: Path, out: Path | None, *, descriptions: Path | None = None,
    variant: Variant = "verified", workers: int = 2, say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Scores folders of generated videos, each a model or a run of one; name of a folder -> its summary.

    folders: of generated videos. benchmark: folder of the benchmark, of the variant that is scored. out: a folder for
    NAME.csv and NAME.json of each, and the plot. descriptions: file, if not the benchmark's own. variant: which score
    the plot shows. workers: processes. say: prints a line.

    Raises UserError before the first video is compared, if any folder is incomplete.
    """
    if out is not None:
        check_folder(out)
    every = [prepare(folder, benchmark, descriptions) for folder in folders]
    if len(names := {prepared.name for prepared in every}) < len(every):
        raise UserError(f"--videos: folders of the same name ({', '.join(sorted(names))}): results are named by it")
    found: dict[str, dict[str, Any]] = {}
    for prepared in every:
        for line in prepared.notices:
            say(line)
        rows = measure(prepared, workers, partial(_progress, prepared.name, say))
        found[prepared.name] = {"fps": prepared.fps, **summary(rows)}
        if out is not None:
            write_file(out / f"{prepared.name}.csv", csv_table(rows).encode())
            write_file(out / f"{prepared.name}.json", (json.dumps(found[prepared.name], indent=1) + "\n").encode())
    if out is not None:
        plot = bar_plot({name: table[variant] for name, table in found.items()}, variant)
        write_file(out / f"physics-iq-{variant}.svg", plot.encode())
    return found


def _progress(name: str, say: Callable[[str], None], done: int, total: int) -> None:
    if done == total or done % max(1, total // 10) == 0:
        say(f"{name}: {done} of {total} views")


def text_table(found: dict[str, dict[str, Any]], variant: Variant) -> str:
    """The scores of all folders as text; mean and standard deviation where there are several."""
    other: Variant = "original" if variant == "verified" else "verified"
    head = ["", f"Physics-IQ {variant}", "without close scenarios", f"({other})"]
    rows = []
    for name, table in found.items():
        apart = table["without_close_scenarios"]
        alone = "-" if apart is None or apart[variant] is None else f"{apart[variant]:.2f}"
        rows.append([name, f"{table[variant]:.2f}", alone, f"({table[other]:.2f})"])
    if len(found) > 1:
        scores = [table[variant] for table in found.values()]
        rows.append(
            [f"mean of {len(scores)}", f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}", "", ""]
        )
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)
