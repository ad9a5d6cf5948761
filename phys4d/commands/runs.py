"""`phys4d demo` and `train`."""

import argparse
from pathlib import Path

from phys4d.commands import Commands
from phys4d.engine.errors import UserError
from phys4d.engine.signals import keeps


def add_demo(commands: Commands) -> None:
    """Adds `demo`."""
    demo = commands.add_parser("demo", help="the whole pipeline on this machine, from simulation to report")
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), help="where everything goes (default: runs/demo)"
    )
    demo.add_argument("--recipe", type=Path, help="a recipe's file, or demo-from-scratch, without pretrained weights")
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
