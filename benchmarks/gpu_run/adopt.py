"""Takes the raw results of a GPU into benchmarks/results/ and fills the pages from them.

What no GPU produced is refused: a rehearsal, and results of a CPU.
"""

from pathlib import Path
from typing import Any

from phys4d.benchmarks import publish, results, run
from phys4d.benchmarks.gpu_run import plan
from phys4d.benchmarks.gpu_run.record import Record, RecordError
from phys4d.kernels.attention import measured


def adopt(folder: Path, revision: str | None = None) -> list[str]:
    """Copies every slice in the folder, with its tables and plot, and fills the pages; returns what was written.

    Args:
        folder: of a run.
        revision: of the source that was measured, where the run could not find it.

    Raises:
        RecordError: the folder holds no results, or some that no GPU produced, or of two GPUs or revisions.
    """
    names = [part.name for part in plan.slices()]
    records = [Record.read(folder / f"{name}.json") for name in names if (folder / f"{name}.json").exists()]
    if not records:
        raise RecordError(f"{folder}: holds no file of a slice ({', '.join(names)}): give the folder of a run")
    for record in records:
        provenance = record.about["provenance"]
        provenance["git_revision"] = provenance["git_revision"] or revision
    gpu = _produced_by(records)
    place = results.COMMITTED / results.gpu_folder(gpu)
    written = []
    for record in records:
        name = record.about["slice"]
        if name == "tune":
            written += _table(record, gpu)
            continue
        content: dict[str, Any] = record.about | {"kernels": record.kernels, "rows": record.rows()}
        content["cases"] = {case: {key: value for key, value in found.items() if key != "rows"}
                            for case, found in record.cases.items()}  # fmt: skip
        results.write(place / f"{name}.json", content)
        written.append(str(place / f"{name}.json"))
        if name in run.KINDS and content["rows"]:
            run.show(place / f"{name}.json", content)
    publish.publish()
    return written


def _produced_by(records: list[Record]) -> str:
    """The GPU that produced all records."""
    for record in records:
        if record.about["stand_in"]:
            raise RecordError(f"{record.file}: a rehearsal, whose figures no GPU produced: it is not adopted")
        if record.about["device"] != "cuda" or not record.about["provenance"]["gpus"]:
            raise RecordError(f"{record.file}: measured on a CPU: only results of a GPU are adopted")
        if not record.about["provenance"]["git_revision"]:
            raise RecordError(f"{record.file}: names no revision of the source: give --revision")
    known = {(r.about["provenance"]["gpus"][0], r.about["provenance"]["git_revision"]) for r in records}
    if len(known) > 1:
        raise RecordError(f"{records[0].file.parent}: holds results of several GPUs or revisions: {sorted(known)}")
    return str(records[0].about["provenance"]["gpus"][0])


def _table(record: Record, gpu: str) -> list[str]:
    """Writes the table of `attention`'s choices on this GPU, where the run made one."""
    table = record.cases.get("choices", {}).get("table")
    if table is None:
        return []
    file = measured.FOLDER / f"{measured.slug(gpu)}.json"
    results.write(file, table)
    return [str(file)]
