"""`phys4d demo`, `train` and `evaluate`."""

import argparse
import json
from pathlib import Path

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable
from phys4d.engine.signals import keeps


def add_demo(commands: Commands) -> None:
    """Adds `demo`."""
    demo = commands.add_parser("demo", help="the whole pipeline on this machine, from simulation to report")
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), help="where everything goes (default: runs/demo)"
    )
    demo.add_argument("--recipe", type=Path, help="another recipe than the one that comes with phys4d")
    demo.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="change one value")
    _add_resume(demo, "continue an interrupted demo in the same folder")
    demo.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    if options.resume:
        keeps(f"{options.folder}: the demo is as it was: the same command goes on with it")
    from phys4d.demo import run_demo

    run_demo(options.folder, options.recipe, options.overrides, resume=options.resume)
    return 0


def _add_resume(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--resume", action="store_const", const="latest", help=meaning)
    parser.add_argument(
        "--resume=previous", dest="resume", action="store_const", const="previous",
        help="the same, but first remove the newest checkpoint of the stage that is not finished",
    )  # fmt: skip


def add_train(commands: Commands) -> None:
    """Adds `train`."""
    train = commands.add_parser("train", help="run the stages of a run file; the same under torchrun")
    train.add_argument("run", type=Path, metavar="RUN.toml")
    _add_resume(train, "continue from the newest complete checkpoint of your own run")
    train.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="change one value")
    train.add_argument(
        "--rerun", metavar="STAGE",
        help="with --resume: begin this stage again, and all behind it; what they left is moved to set-aside-1/ in the "
        "run folder",
    )  # fmt: skip
    train.add_argument(
        "--dry-run", action="store_true", help="check everything that can be checked, print the plan, start nothing"
    )
    sized = train.add_argument_group("with --dry-run, what the run would take on GPUs, counted without any")
    sized.add_argument("--world-size", type=int, metavar="N", help="number of GPUs")
    sized.add_argument("--gpu", choices=("a100", "h100", "h200", "b200"), help="default: h100")
    sized.add_argument("--clip", metavar="FRAMESxHEIGHTxWIDTH", help="size of the clips; needs no dataset")
    sized.add_argument("--model", metavar="NAME", help="a published model, such as wan2.2-ti2v-5b, in place of init")
    sized.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    train.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    if options.resume:
        keeps(f"{options.run}: the run is as it was: the same command goes on with it")
    from phys4d.train import train

    if options.world_size is not None:
        if not options.dry_run or options.world_size < 1:
            raise UserError("--world-size: only with --dry-run, and at least 1; torchrun says how many processes train")
        return _size(options)
    if given := [name for name in ("gpu", "clip", "model", "json") if getattr(options, name) is not None]:
        raise UserError(f"--{given[0]}: only with --dry-run --world-size N, for N GPUs")
    train(options.run, options.overrides, resume=options.resume, dry_run=options.dry_run, rerun=options.rerun)
    return 0


def _size(options: argparse.Namespace) -> int:
    from phys4d.dry_run.run import Asked, dry_run
    from phys4d.engine.output import check_file
    from phys4d.train import check_run_file

    if options.json is not None:
        check_file(options.json)
    if options.clip is None and options.model is None:
        check_run_file(options.run, options.overrides, options.world_size)
    asked = Asked(options.world_size, options.gpu or "h100", options.clip, options.model, options.json)
    dry_run(options.run, options.overrides, asked)
    return 0


def add_evaluate(commands: Commands) -> None:
    """Adds `evaluate`."""
    evaluate = commands.add_parser("evaluate", help="measure a model on held-out clips, or videos by a benchmark")
    evaluate.add_argument("model", type=Path, nargs="?", help="a model folder written by a stage")
    evaluate.add_argument("--data", type=Path, help="simulated clips with truth, not trained on")
    evaluate.add_argument("--scenes", type=int, default=40, help="how many of them (default: 40)")
    evaluate.add_argument("--samples", type=int, default=4, help="generated clips a scene (default: 4)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--on-bad", choices=("stop", "skip"), default="stop",
        help="stop (default) at a clip that cannot be read, or leave such scenes out",
    )  # fmt: skip
    evaluate.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    evaluate.add_argument("--out", type=Path, help="also write the table as JSON, with the figures of every scene")
    suite = evaluate.add_argument_group("videos of any model, by a public benchmark")
    suite.add_argument("--suite", choices=("physics-iq",), help="the benchmark")
    suite.add_argument("--videos", type=Path, nargs="+", metavar="DIR", help="of 0001_NAME.mp4 ...; one a model or run")
    suite.add_argument("--benchmark", type=Path, metavar="DIR", help="its folder: split-videos, video-masks")
    suite.add_argument("--descriptions", type=Path, metavar="CSV", help="default: descriptions.csv of the benchmark")
    suite.add_argument("--variant", choices=("original", "verified"), default="verified", help="default: verified")
    suite.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    evaluate.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    if options.suite is not None:
        return _evaluate_videos(options)
    for name in ("videos", "benchmark", "descriptions"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: belongs to --suite physics-iq")
    if options.model is None or options.data is None:
        raise UserError("evaluate: expected a model folder and --data, or --suite with --videos and --benchmark")
    from phys4d.engine.config import build
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.output import check_file, write_file
    from phys4d.evaluate.folders import evaluate_folder
    from phys4d.evaluate.run import EvaluateConfig
    from phys4d.report.text import text_table

    if options.out is not None:
        check_file(options.out)
    values = {name: getattr(options, name) for name in ("data", "scenes", "samples", "seed", "on_bad", "precision")}
    config = build(EvaluateConfig, values, "evaluate")
    with Parallel.start() as parallel:
        table = evaluate_folder(options.model, config, parallel)
    if table is not None:
        print(text_table(table))
        if options.out is not None:
            write_file(options.out, f"{json.dumps(table, indent=1)}\n".encode())
    return 0


def _evaluate_videos(options: argparse.Namespace) -> int:
    if options.model is not None or options.data is not None:
        raise UserError(f"--suite {options.suite}: scores videos, not a model: leave the model folder and --data out")
    if options.videos is None or options.benchmark is None:
        raise UserError(f"--suite {options.suite}: expected --videos and --benchmark")
    if not 1 <= options.workers <= 256:
        raise UserError(f"--workers {options.workers}: expected 1 to 256")
    from phys4d.evaluate.physics_iq.run import score_folders, text_table

    found = score_folders(
        options.videos, options.benchmark, options.out, descriptions=options.descriptions, variant=options.variant,
        workers=options.workers, say=lambda line: print(printable(line)),
    )  # fmt: skip
    for line in text_table(found, options.variant).splitlines():
        print(printable(line))
    return 0
