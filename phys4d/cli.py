"""The command line: one program, one subcommand per task. Each imports what it needs when it runs.

Exit codes: 0 done, 1 our fault, 2 the user's input is at fault, 3 stopped by a signal, and the line says what is kept
(a checkpoint, finished stages, finished clips) and how to go on, 130 stopped by a signal and nothing is kept. Signals
are SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from phys4d import __version__
from phys4d.engine.errors import FaultElsewhere, Interrupted, UserError, printable
from phys4d.engine.faults import fault_line
from phys4d.engine.paths import expanded_options
from phys4d.engine.signals import Stopping, exit_code, keeps, stopped_line
from phys4d.teachers.registry import DEPTH_TEACHERS, FLOW_TEACHERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; without arguments (those of the process) as its last act."""
    _print_anything()
    options = build_parser().parse_args(arguments)
    with Stopping(last=arguments is None) as stopping:
        try:
            try:
                expanded_options(options)
                return options.command(options)
            finally:
                stopping.end()
        except (Exception, KeyboardInterrupt) as error:
            return _ended(error, stopping)


def _ended(error: BaseException, stopping: Stopping) -> int:
    """The exit code of a command that this exception ended, and its one line; raises what is our own fault."""
    if isinstance(error, FaultElsewhere):
        return 2
    if isinstance(error, UserError):
        return _say(f"error: {error}", 2)
    if isinstance(error, Interrupted):
        return _say(str(error), 3, every_rank=False)
    if isinstance(error, KeyboardInterrupt) or stopping.received is not None:
        # Another rank or a process of a pool may have ended first: then the error is that it is gone.
        return _say(stopped_line(stopping, error), exit_code(stopping), every_rank=False)
    fault = fault_line(error) if isinstance(error, OSError) else None
    if fault is None:
        raise error
    return _say(f"error: {UserError(fault)}", 2)


def _say(line: str, code: int, *, every_rank: bool = True) -> int:
    if every_rank or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # the terminal may have gone with the signal
            print(f"phys4d: {line}", file=sys.stderr)
    return code


def _print_anything() -> None:
    """What the terminal or log cannot encode is escaped (\\u30c7), in every line of the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def build_parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    parser = argparse.ArgumentParser(
        prog="phys4d", description="Train and evaluate physics-consistent 4D world models."
    )
    parser.add_argument("--version", action="version", version=f"phys4d {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="the whole pipeline on this machine, from simulation to report")
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), help="where everything goes (default: runs/demo)"
    )
    demo.add_argument("--recipe", type=Path, help="another recipe than the one that comes with phys4d")
    demo.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="change one value")
    demo.add_argument("--resume", action="store_true", help="continue an interrupted demo in the same folder")
    demo.set_defaults(command=_demo)

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

    label = commands.add_parser("label", help="pseudo-label videos with depth and flow teachers")
    label.add_argument("--videos", type=Path, required=True, help="the dataset to label; its truth is never read")
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
        "--workers", type=int, default=len(os.sched_getaffinity(0)),
        help="threads; the bytes do not depend on it (default: one per core)",
    )  # fmt: skip
    label.set_defaults(command=_label)

    data = commands.add_parser("data", help="check datasets, look at them, import clips").add_subparsers(
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
    videos = data.add_parser("import", help="video files (mp4, mov, webm, mkv): docs/your-own-clips.md")
    videos.add_argument("folder", type=Path, help="searched with all folders in it")
    videos.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    videos.add_argument("--frames", type=int, required=True, help="of each clip")
    videos.add_argument("--size", required=True, metavar="HxW", help="pixels, or one number; the centre is kept")
    videos.add_argument("--fps", type=float, help="of the clips: frames are picked by their time (default: 24)")
    videos.add_argument("--every", type=float, metavar="SECONDS", help="a clip each so many seconds (default: one)")
    videos.add_argument("--fov", type=float, metavar="DEGREES", help="assumed across the width (default: 60)")
    videos.add_argument("--caption", metavar="TEXT", help="of videos without a .txt beside them (default: empty)")
    cores = len(os.sched_getaffinity(0))
    videos.add_argument("--workers", type=int, default=cores, help="threads, one video each (default: one per core)")
    videos.set_defaults(command=_import_videos)
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

    train = commands.add_parser("train", help="run the stages of a run file; the same under torchrun")
    train.add_argument("run", type=Path, metavar="RUN.toml")
    train.add_argument(
        "--resume", action="store_true", help="continue from the newest complete checkpoint of your own run"
    )
    train.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="change one value")
    train.add_argument("--dry-run", action="store_true", help="check everything that can be checked, start nothing")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="measure a model on held-out clips")
    evaluate.add_argument("model", type=Path, help="a model folder written by a stage")
    evaluate.add_argument("--data", type=Path, required=True, help="simulated clips with truth, not trained on")
    evaluate.add_argument("--scenes", type=int, default=40, help="how many of them (default: 40)")
    evaluate.add_argument("--samples", type=int, default=4, help="generated clips a scene (default: 4)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", type=Path, help="also write the table as JSON")
    evaluate.set_defaults(command=_evaluate)

    bench = commands.add_parser("bench", help="measure speed and memory on this machine")
    subjects = bench.add_subparsers(required=True, metavar="what")
    for kind, what in (
        ("attention", "attention on the shapes of real models, beside every peer that is here"),
        ("elementwise", "norm and rotation; gate, residual, norm and modulation, beside every peer that is here"),
        ("blocks", "whole blocks of Wan, CogVideoX and Open-Sora: stock, compiled, and with our operators"),
        ("geometry", "losses of 4D geometry and Chamfer distances, beside torch and the libraries that are here"),
    ):
        kernels = subjects.add_parser(kind, help=what)
        kernels.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
        kernels.add_argument("--quick", action="store_true", help="few rounds: under a minute")
        kernels.add_argument("--case", action="append", metavar="NAME", help="one case; repeat for several")
        kernels.add_argument("--backend", action="append", metavar="NAME", help="one peer; repeat for several")
        kernels.add_argument("--out", type=Path, help="write rows as JSON, tables and plots to this folder")
        if kind == "attention":
            kernels.add_argument("--tune", action="store_true", help="write this GPU's table of who is fastest")
        kernels.set_defaults(command=_bench_kernels, kind=kind, tune=False)
    stages = subjects.add_parser(
        "train", help="step time, samples/s and peak memory of every stage of a finished demo"
    )
    stages.add_argument("demo", type=Path, help="the folder of a finished demo")
    stages.add_argument("--steps", type=int, default=30, help="steps a stage (default: 30)")
    stages.add_argument("--out", type=Path, help="also write train.json to this folder")
    stages.add_argument("--adopt", action="store_true", help="also fill the table of this checkout's README")
    stages.set_defaults(command=_bench_train)

    plot = subjects.add_parser("plot", help="tables and plots of results that are there, without measuring again")
    plot.add_argument("results", type=Path, nargs="+", metavar="RESULT.json", help="written by --out")
    plot.set_defaults(command=_bench_plot)

    doctor = commands.add_parser(
        "doctor", help="what this machine can run, which backends are there, and why one is not"
    )
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)
    return parser


def _demo(options: argparse.Namespace) -> int:
    if options.resume:
        keeps(f"{options.folder}: the demo is as it was: the same command goes on with it")
    from phys4d.demo import run_demo

    run_demo(options.folder, options.recipe, options.overrides, resume=options.resume)
    return 0


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


def _label(options: argparse.Namespace) -> int:
    from phys4d.teachers.label import label_dataset
    from phys4d.teachers.registry import choose

    folders = {"scenes": options.scenes, "weights": options.weights}
    settings = {"steps": options.steps, "seed": options.seed}
    depth, flow = choose(options.teacher, options.flow, folders, settings, options.changes)
    label_dataset(options.videos, options.out, depth, flow, workers=options.workers)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from phys4d.engine.data.dataset import verify

    problems = verify(options.folder)
    for problem in problems:
        print(printable(problem))
    if problems:
        raise UserError(f"{options.folder}: {len(problems)} problems: write this dataset again")
    print(printable(f"{options.folder}: all clips are whole"))
    return 0


def _import_videos(options: argparse.Namespace) -> int:
    from phys4d.engine.config import build
    from phys4d.importers.videos.dataset import VideosConfig, import_videos

    given = {name: getattr(options, name) for name in VideosConfig.model_fields}
    config = build(VideosConfig, {name: value for name, value in given.items() if value is not None}, "data import")
    done = import_videos(options.folder, options.out, config, workers=options.workers)
    for line in done.lines:
        print(printable(line))
    if not done.clips:
        raise UserError(f"{options.folder}: not one clip could be made of its {len(done.lines)} files, see above")
    left_out = f", {len(done.lines)} files left out in whole or in part" if done.lines else ""
    captions = f", {done.without_caption} without a caption" if done.without_caption else ""
    print(printable(f"{options.out}: {done.clips} clips of {done.videos} videos{left_out}{captions}"))
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


def _sheet(options: argparse.Namespace) -> int:
    from phys4d.report.sheet import contact_sheet

    count = contact_sheet(options.folder, options.out, clips=options.clips)
    print(printable(f"{options.out}: {count} clips"))
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.resume:
        keeps(f"{options.run}: the run is as it was: the same command goes on with it")
    from phys4d.train import train

    train(options.run, options.overrides, resume=options.resume, dry_run=options.dry_run)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from phys4d.engine.config import build
    from phys4d.engine.output import check_file, write_file
    from phys4d.engine.parallel import Parallel
    from phys4d.evaluate.run import EvaluateConfig, evaluate_folder

    if options.out is not None:
        check_file(options.out)
    values = {"data": options.data, "scenes": options.scenes, "samples": options.samples, "seed": options.seed}
    config = build(EvaluateConfig, values, "evaluate")
    parallel = Parallel.start()
    try:
        table = evaluate_folder(options.model, config, parallel)
    finally:
        parallel.close()
    if table is not None:
        text = json.dumps(table, indent=1)
        print(text)
        if options.out is not None:
            write_file(options.out, f"{text}\n".encode())
    return 0


def _bench_kernels(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.run import bench

    bench(
        options.kind, device=options.device, quick=options.quick, names=options.case, backends=options.backend,
        out=options.out, tune=options.tune,
    )  # fmt: skip
    return 0


def _bench_plot(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.run import show_again

    for file in options.results:
        show_again(file)
        print(printable(f"{file.with_suffix('.md')}, {file.with_suffix('.svg')}"))
    return 0


def _bench_train(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.train import WARM_UP, bench

    if options.steps < WARM_UP + 5:
        raise UserError(f"--steps {options.steps}: expected at least {WARM_UP + 5}, {WARM_UP} of which warm up")
    bench(options.demo, options.steps, options.out, options.adopt)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from phys4d.doctor import collect, render

    report = collect()
    print(json.dumps(report, indent=1) if options.json else render(report))
    return 0
