"""`phys4d simulate` and `label`: commands that make a dataset."""

import argparse
import os
from pathlib import Path

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable
from phys4d.engine.paths import given_location
from phys4d.engine.signals import keeps
from phys4d.teachers.registry import DEPTH_TEACHERS, FLOW_TEACHERS


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
    simulate.add_argument("--lens", default="varied", help="fields of view of 30 to 70 degrees (default), or fixed")
    simulate.add_argument(
        "--clutter", default="half",
        help="varied: furniture behind the event, which the caption names; half: of the clips (default); or none",
    )  # fmt: skip
    simulate.add_argument(
        "--assets", type=Path, metavar="DIR",
        help="obj and glb meshes with a licence file, metres, y up: as falling bodies in fall, and as furniture",
    )  # fmt: skip
    simulate.add_argument(
        "--renderer", choices=("raster", "cycles"), default="raster",
        help="of the video: raster (default), or cycles, Blender's path tracer; truth is the same",
    )  # fmt: skip
    simulate.add_argument("--samples", type=int, default=16, help="of Cycles in each pixel (default: 16)")
    simulate.add_argument(
        "--cycles-python", type=Path, metavar="PYTHON", help="a Python that has bpy (default: the running one)"
    )
    simulate.add_argument("--size", default="48x48", metavar="HxW", help="pixels, or one number (default: 48x48)")
    simulate.add_argument("--frames", type=int, default=17)
    simulate.add_argument("--fps", type=int, default=24)
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument(
        "--workers", type=int, default=2, help="processes; the bytes do not depend on it (default: 2)"
    )
    add_pixel_format(simulate)
    simulate.add_argument(
        "--on-refused", choices=("stop", "skip"), default="stop",
        help="at a clip of which no sample is usable: stop (default), or skip it, with a count at the end",
    )  # fmt: skip
    simulate.add_argument(
        "--extra", action="append", default=[], metavar="NAME",
        help="store further truth: tracks, backward-flow, normals, boxes, velocities or contacts; repeat for several",
    )  # fmt: skip
    simulate.add_argument("--no-truth", action="store_true", help="write videos and captions only")
    simulate.set_defaults(command=_simulate)


def add_pixel_format(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the chroma format of clips."""
    parser.add_argument(
        "--pixel-format", choices=("yuv444p", "yuv420p"), default="yuv444p",
        help="of the mp4: yuv444p keeps all colour (default), GPUs decode yuv420p only",
    )  # fmt: skip


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
        "seed": options.seed, "truth": not options.no_truth, "camera": options.camera,
        "looks": options.looks, "lens": options.lens, "extras": tuple(options.extra),
        "clutter": options.clutter, "assets": options.assets,
        "renderer": options.renderer, "samples": options.samples, "cycles_python": options.cycles_python,
        "pixel_format": options.pixel_format, "on_refused": options.on_refused,
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


def _cores() -> int:
    """Cores of this machine that each of its ranks can have."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, len(os.sched_getaffinity(0)) // (max(1, int(ranks)) if ranks.isdigit() else 1))


def add_label(commands: Commands) -> None:
    """Adds `label`."""
    label = commands.add_parser("label", help="pseudo-label videos with depth and flow teachers")
    label.add_argument(
        "--videos", required=True, metavar="FOLDER", help="the dataset to label, or its URL; its truth is never read"
    )
    label.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    label.add_argument(
        "--teacher", default="small", metavar="NAME",
        help=f"the depth teacher: {' or '.join(DEPTH_TEACHERS)} (default: small, trained on --scenes)",
    )  # fmt: skip
    label.add_argument(
        "--flow", default="dis", metavar="NAME", help=f"the flow teacher: {' or '.join(FLOW_TEACHERS)} (default: dis)"
    )
    label.add_argument("--scenes", type=Path, help="other scenes, with truth, to train a depth teacher on")
    label.add_argument("--weights", type=Path, help="the model folder of a depth teacher")
    label.add_argument("--steps", type=int, help="training steps of a depth teacher (default: 400)")
    label.add_argument("--seed", type=int, help="of a depth teacher's training (default: 0)")
    label.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="A.B=C",
        help="change another setting of a teacher, such as depth.batch=2 or flow.preset=fast",
    )  # fmt: skip
    label.add_argument(
        "--on-bad", default="stop", choices=("stop", "skip"),
        help="stop (default) at a clip that cannot be read or labelled, or leave it out, up to one in twenty",
    )  # fmt: skip
    label.add_argument(
        "--workers", type=int, default=_cores(),
        help="threads of each rank; the bytes do not depend on it (default: the machine's cores over its ranks)",
    )  # fmt: skip
    label.set_defaults(command=_label)


def _label(options: argparse.Namespace) -> int:
    from phys4d.engine.distributed.collectives import on_all_ranks
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.teachers.label import LEFT_OUT, label_dataset
    from phys4d.teachers.registry import choose

    folders = {"scenes": options.scenes, "weights": options.weights}
    settings = {"steps": options.steps, "seed": options.seed}
    videos = given_location(options.videos)
    with Parallel.start() as parallel:
        depth, flow = on_all_ranks(
            lambda: choose(options.teacher, options.flow, folders, settings, options.changes)
        )
        done = label_dataset(
            videos, options.out, depth, flow, workers=options.workers, parallel=parallel, on_bad=options.on_bad
        )
    if done is not None:
        for fault in done.bad.values():
            print(printable(f"left out: {fault}"))
        left_out = f", {len(done.bad)} left out: see {LEFT_OUT} in it" if done.bad else ""
        print(printable(f"{options.out}: {len(done.rows)} clips labelled by {depth.title} and {flow.title}{left_out}"))
    return 0
