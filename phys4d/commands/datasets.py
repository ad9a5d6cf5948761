"""`phys4d simulate`, `label` and `data`: commands that write or check a dataset."""

import argparse
from pathlib import Path

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable
from phys4d.engine.signals import keeps


def add_simulate(commands: Commands) -> None:
    """Adds `simulate`."""
    simulate = commands.add_parser("simulate", help="simulate clips with exact truth into a dataset")
    simulate.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    simulate.add_argument("--clips", type=int, required=True)
    simulate.add_argument(
        "--category", action="append", metavar="NAME",
        help="a kind of physics, or all of them; repeat for several, which take turns (default: rigid)",
    )  # fmt: skip
    simulate.add_argument(
        "--family", action="append", metavar="NAME", help="one family of scenes; repeat for several (default: all)"
    )
    simulate.add_argument(
        "--camera", default="static", help="static (default), or moving along a path that the caption states"
    )
    simulate.add_argument(
        "--looks", default="varied", help="varied backdrops, lights and soft shadows (default), or plain"
    )
    simulate.add_argument("--size", default="48x48", metavar="HxW", help="pixels, or one number (default: 48x48)")
    simulate.add_argument("--frames", type=int, default=17)
    simulate.add_argument("--fps", type=int, default=24)
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument(
        "--workers", type=int, default=2, help="processes; the bytes do not depend on it (default: 2)"
    )
    simulate.add_argument("--no-truth", action="store_true", help="write videos and captions only")
    simulate.set_defaults(command=_simulate)


def _simulate(options: argparse.Namespace) -> int:
    from phys4d.engine.config import build
    from phys4d.simulation.categories import CATEGORIES
    from phys4d.simulation.generate import SimulateConfig, simulate

    height, cross, width = options.size.partition("x")
    width = width if cross else height
    if not (height.isdigit() and width.isdigit()):
        raise UserError(f"--size {options.size}: expected HEIGHTxWIDTH in pixels, such as 48x48")
    values = {
        "clips": options.clips, "size": (int(height), int(width)), "frames": options.frames, "fps": options.fps,
        "seed": options.seed, "truth": not options.no_truth, "camera": options.camera, "looks": options.looks,
    }  # fmt: skip
    if options.family:
        values["families"] = tuple(options.family)
    if options.category:
        values["categories"] = tuple(CATEGORIES) if options.category == ["all"] else tuple(options.category)
    if options.workers < 1:
        raise UserError(f"--workers {options.workers}: expected 1 or more")
    config = build(SimulateConfig, values, "simulate")
    keeps(f"{options.out}: finished clips are kept: the same command goes on from there")
    summary = simulate(config, options.out, workers=options.workers)
    for line in summary.lines():
        print(line)
    return 0


def add_label(commands: Commands) -> None:
    """Adds `label`."""
    label = commands.add_parser("label", help="pseudo-label videos with depth and flow teachers")
    label.add_argument("--videos", type=Path, required=True, help="the dataset to label; its truth is never read")
    label.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    label.add_argument(
        "--scenes", type=Path, required=True, help="other scenes, with truth, to train the depth teacher on"
    )
    label.add_argument("--steps", type=int, default=400, help="training steps of the depth teacher (default: 400)")
    label.add_argument("--seed", type=int, default=0)
    label.set_defaults(command=_label)


def _label(options: argparse.Namespace) -> int:
    from phys4d.engine.config import build
    from phys4d.teachers.label import label_with_small_depth
    from phys4d.teachers.small_depth import SmallDepthConfig

    config = build(SmallDepthConfig, {"steps": options.steps, "seed": options.seed}, "label")
    label_with_small_depth(options.videos, options.out, options.scenes, config)
    return 0


def add_data(commands: Commands) -> None:
    """Adds `data` with its actions."""
    data = commands.add_parser("data", help="check datasets, look at them, import others' clips").add_subparsers(
        required=True, metavar="action"
    )
    verify = data.add_parser("verify", help="check every byte of a dataset")
    verify.add_argument("folder", type=Path)
    verify.set_defaults(command=_verify)
    sheet = data.add_parser("sheet", help="one picture of a dataset's clips, with the truth beside them")
    sheet.add_argument("folder", type=Path)
    sheet.add_argument("--out", type=Path, required=True, metavar="PICTURE", help="a .png or .jpg")
    sheet.add_argument("--clips", type=int, default=36, help="the first so many (default: 36)")
    sheet.set_defaults(command=_sheet)
    replicator = data.add_parser(
        "import-replicator", help="clips that writers of NVIDIA Omniverse Replicator (Isaac Sim) left"
    )
    replicator.add_argument("folder", type=Path, help="what a writer wrote, or a folder of such folders")
    replicator.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    replicator.add_argument(
        "--fps", type=float, default=24.0, help="of the recordings, which do not say it (default: 24)"
    )
    replicator.add_argument(
        "--caption", action="append", default=[], metavar="TEXT", help="one for all clips, or repeated for each"
    )
    replicator.add_argument(
        "--depth-unit", choices=("metres", "centimetres", "millimetres"),
        help="of the recorded distances (default: metres, refused where camera or range speak against it)",
    )  # fmt: skip
    replicator.set_defaults(command=_import_replicator)


def _verify(options: argparse.Namespace) -> int:
    from phys4d.engine.data.dataset import verify

    problems = verify(options.folder)
    for problem in problems:
        print(printable(problem))
    if problems:
        raise UserError(f"{options.folder}: {len(problems)} problems: write this dataset again")
    print(printable(f"{options.folder}: all clips are whole"))
    return 0


def _sheet(options: argparse.Namespace) -> int:
    from phys4d.report.sheet import contact_sheet

    count = contact_sheet(options.folder, options.out, clips=options.clips)
    print(printable(f"{options.out}: {count} clips"))
    return 0


def _import_replicator(options: argparse.Namespace) -> int:
    from phys4d.importers.replicator.dataset import import_replicator

    done = import_replicator(
        options.folder, options.out, fps=options.fps, captions=options.caption, depth_unit=options.depth_unit
    )
    print(printable(f"{options.out}: {done.clips} clips, depth from {done.nearest:.4g} to {done.farthest:.4g} m"))
    for name, count in (("motion_vectors", done.without_vectors), ("segmentation", done.without_segmentation)):
        if count:
            what = f"{count} without {name}: see docs/import-replicator.md for what is then not known"
            print(printable(f"{options.out}: {what}"))
    return 0
