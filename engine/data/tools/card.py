"""The dataset card: README.md in the folder of a dataset, with its counts, sizes, licence, seeds and definitions.

Its head is the YAML that the Hugging Face hub reads (https://huggingface.co/docs/hub/datasets-cards): the licence, and
all tar files as one split, which `datasets` and `webdataset` read as they are.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.extras import EXTRAS
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.files.clip_index import ClipIndex
from phys4d.engine.data.tools.statistics import Statistics, readable, statistics
from phys4d.engine.errors import UserError
from phys4d.engine.storage import replace_text

CARD = "README.md"
MARK = "<!-- written by phys4d data card -->"
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

ARRAYS = {
    "depth": "along the optical axis, metres (`depth_kind` metric), or 1 / metres up to scale and shift",
    "motion": "of the surface point at a pixel from frame t to t + 1: du right and dv down in pixels, dz in metres, "
    "its depth in frame t + 1 minus that in frame t; the camera's own motion included",
    "depth_valid": "where depth is known",
    "flow_valid": "where du and dv are known",
    "dz_valid": "where dz is known",
    "visible": "the surface point is also visible in frame t + 1",
    "moving": "the surface point moves in the world",
    "instance": "number of the thing, as in `objects` of the json; 0 for none",
    "opacity": "of smoke in front of the surface, 255 is opaque",
}
FIELDS = {
    "caption": "what happens, with every velocity that is not zero at the start",
    "category": "kind of physics",
    "family": "kind of scene within the category",
    "physics": "parameters of the whole scene, SI units",
    "objects": "each thing with its instance, shape, size, mass and material",
    "tracks": "pose of each rigid thing in each frame: position in metres, quaternion w, x, y, z",
    "intrinsics": "[T, 3, 3], pixels; pixel centres are at i + 0.5",
    "camera_to_world": "[T, 4, 4], metres; camera axes are right, down, forward",
    "depth_kind": "`metric` or `affine_disparity`",
    "provenance": "program, versions, seed and number of the clip",
}

REFRACTED = "Truth is of the first surface, also where light passes through it (`refracting` in the json's provenance)."


def write_card(folder: Path, *, licence: str) -> Path:
    """Writes the card of a dataset, and returns its path; an earlier card is replaced.

    folder: of the dataset.
    licence: identifier as the hub has it, such as "cc-by-4.0".

    Raises UserError for another identifier, if the folder is no dataset or empty, or has a README.md of other origin.
    """
    if not LICENCE.fullmatch(licence):
        raise UserError(f"--licence {licence}: expected an identifier in small letters, such as cc-by-4.0 or mit")
    index, path = ClipIndex(folder), folder / CARD
    found = statistics(index)
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{path}: is not a card that this program wrote: move it away")
    dataset, row = ClipDataset(folder), index.row(0)
    arrays = blob.header(dataset.member(row, "truth")) if "truth" in row["members"] else {}
    lines = _card(folder.resolve().name, licence, found, arrays, dataset.meta(0))
    replace_text(path, "\n".join(lines) + "\n")
    return path


def _card(name: str, licence: str, found: Statistics, arrays: dict[str, Any], meta: dict[str, Any]) -> list[str]:
    size = next((label for most, label in _SIZES if found.clips < most), "n>1M")
    head = [
        "---", f"license: {licence}", f"pretty_name: {name}", "size_categories:", f"- {size}",
        "tags:", "- video", "- webdataset",
        "configs:", "- config_name: default", "  data_files:", "  - split: train", '    path: "*.tar"',
        "---", MARK, f"# {name}", "",
    ]  # fmt: skip
    seconds = f"{found.seconds:.0f} s ({found.seconds / 3600:.2f} h)"
    counts = f"{found.clips} clips in {found.shards} shards, {found.frames} frames, {seconds}. Licence: {licence}."
    members = [
        (f"`{name}`", readable(total), readable(total / found.clips)) for name, total in found.members.items()
    ]
    fields = [(f"`{name}`", text) for name, text in FIELDS.items() if name in meta]
    lines = [*head, counts, "", "## Bytes", *_table(("member", "all clips", "a clip, mean"), members)]
    for title, values in found.counts.items():
        lines += ["", f"## {title[0].upper()}{title[1:]}"]
        lines += _table(("value", "clips", "share"), [(v, str(n), f"{n / found.clips:.1%}") for v, n in values])
    if arrays:
        texts = ARRAYS | {name: rule.meaning for name, rule in EXTRAS.items()}
        shown = [
            (f"`{key}`", f"{entry['dtype']} {list(entry['shape'])}", texts.get(key, "not defined by this program"))
            for key, entry in sorted(arrays.items())
        ]
        lines += ["", "## Arrays of `truth` in the first clip", *_table(("array", "type", "definition"), shown)]
    lines += ["", "## Fields of `json`", *_table(("field", "definition"), fields)]
    return [
        *lines, *_made_with(meta.get("provenance", {})), "", "## Reading",
        "`index.parquet` has a row for each clip: key, shard, sizes, offsets, digests, texts.",
        "", "    from phys4d.engine.data.dataset import ClipDataset        # frames and arrays by number",
        '    ClipDataset("FOLDER")[0]',
        '    webdataset.WebDataset("FOLDER/shard-000000.tar")          # members as bytes',
        '    datasets.load_dataset("webdataset", data_files="FOLDER/*.tar")',
    ]  # fmt: skip


def _made_with(provenance: dict[str, Any]) -> list[str]:
    """Renderer and meshes of others in the clips, as the json of the first one has them."""
    lines = []
    if provenance.get("renderer"):
        name, version, samples = (provenance[key] for key in ("renderer", "bpy", "samples"))
        lines += ["", f"Pictures by {name} (bpy {version}), {samples} samples in each pixel. " + REFRACTED]
    if provenance.get("assets"):
        named = [(each["name"], each["file"], each["licence"]) for each in provenance["assets"]]
        lines += ["", "## Meshes of others in the scenes", *_table(("name", "file", "licence"), named)]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |", "|---" * len(head) + "|",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows),
    ]  # fmt: skip
