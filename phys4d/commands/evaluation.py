"""`phys4d evaluate`: models, folders of clips and videos measured, and results compared."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable
from phys4d.teachers.registry import DEPTH_TEACHERS, FLOW_TEACHERS


def add_evaluate(commands: Commands) -> None:
    """Adds `evaluate`."""
    evaluate = commands.add_parser("evaluate", help="measure a model on held-out clips, or clips and videos by a suite")
    evaluate.add_argument("what", type=Path, nargs="*", help="a model folder; --suite 4d: runs, or folders of clips")
    evaluate.add_argument("--data", type=Path, help="simulated clips with truth, not trained on")
    evaluate.add_argument("--scenes", type=int, help="how many of them (default: 40)")
    evaluate.add_argument("--samples", type=int, help="generated clips a scene (default: 4)")
    evaluate.add_argument("--seed", type=int, help="default: 0")
    evaluate.add_argument(
        "--on-bad", choices=("stop", "skip"),
        help="stop (default) at a clip that cannot be read, or leave such scenes out",
    )  # fmt: skip
    evaluate.add_argument("--precision", choices=("fp32", "bf16"), help="default: fp32")
    evaluate.add_argument("--out", type=Path, help="the results as JSON, or a suite's folder; --compare: or PAGE.html")
    suite = evaluate.add_argument_group("suites, of any model's clips or videos")
    suite.add_argument("--suite", choices=("4d", "physics-iq"), help="4D consistency with the truth, or the benchmark")
    suite.add_argument("--baselines", action="store_true", help="4d: also score the first frame held, and the truth")
    suite.add_argument(
        "--videos", type=Path, nargs="+", metavar="DIR",
        help="one a model or run; physics-iq: of 0001_NAME.mp4 ..., 4d: of KEY.mp4 ..., KEY of the true clip",
    )  # fmt: skip
    suite.add_argument(
        "--reader", type=Path, metavar="MODEL",
        help="4d: what reads geometry off --videos: a model of ours, or the word teachers, with the options below",
    )  # fmt: skip
    suite.add_argument("--benchmark", type=Path, metavar="DIR", help="its folder: split-videos, video-masks")
    suite.add_argument("--descriptions", type=Path, metavar="CSV", help="default: descriptions.csv of the benchmark")
    suite.add_argument("--variant", choices=("original", "verified"), help="default: verified")
    suite.add_argument("--workers", type=int, help="processes, for clips and videos (default: 2)")
    taught = evaluate.add_argument_group("--reader teachers: depth and flow as of `phys4d label`")
    taught.add_argument(
        "--teacher", metavar="NAME",
        help=f"of depth: {' or '.join(DEPTH_TEACHERS)} (default: small, trained on --teacher-scenes)",
    )  # fmt: skip
    taught.add_argument("--flow", metavar="NAME", help=f"of flow: {' or '.join(FLOW_TEACHERS)} (default: dis)")
    taught.add_argument("--teacher-scenes", type=Path, metavar="DIR", help="scenes of another seed than --data's")
    taught.add_argument("--weights", type=Path, metavar="DIR", help="the model folder of a depth teacher")
    taught.add_argument(
        "--set", dest="changes", action="append", metavar="A.B=C",
        help="change a setting of a teacher, such as depth.steps=800 or flow.preset=fast",
    )  # fmt: skip
    evaluate.add_argument(
        "--compare", type=Path, nargs="+", metavar="RESULT.json",
        help="paired differences of results on the same clips, each against the first, and what is significant",
    )  # fmt: skip
    evaluate.set_defaults(command=_evaluate)


_MODELS = ("scenes", "samples", "seed", "on_bad", "precision")  # options of models
_BENCHMARK = ("benchmark", "descriptions", "variant")  # of --suite physics-iq
_VIDEOS = ("videos", "reader")  # of suites
_TAUGHT = ("teacher", "flow", "teacher_scenes", "weights", "changes")  # of --reader teachers
_TEACHERS = Path("teachers")  # as a reader


def _evaluate(options: argparse.Namespace) -> int:
    if options.reader != _TEACHERS or options.suite != "4d":
        _refuse(options, _TAUGHT, "belongs to --suite 4d --reader teachers")
    if options.compare is not None:
        return _compare(options)
    if options.workers is not None and not 1 <= options.workers <= 256:
        raise UserError(f"--workers {options.workers}: expected 1 to 256")
    if options.suite == "physics-iq":
        return _physics_iq(options)
    _refuse(options, _BENCHMARK, "belongs to --suite physics-iq")
    if options.suite == "4d":
        return _consistency(options)
    _refuse(options, _VIDEOS, "belongs to --suite")
    _refuse(options, ("baselines",), "belongs to --suite 4d")
    _refuse(options, ("workers",), "belongs to --suite")
    if len(options.what) != 1 or options.data is None:
        raise UserError("evaluate: expected a model folder and --data, or --suite with what it scores")
    from phys4d.engine.config import build
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.output import check_file, write_file
    from phys4d.evaluate.folders import evaluate_folder
    from phys4d.evaluate.scenes import EvaluateConfig
    from phys4d.report.text import text_table

    if options.out is not None:
        check_file(options.out)
    config = build(EvaluateConfig, _settings(options), "evaluate")
    with Parallel.start() as parallel:
        table = evaluate_folder(options.what[0], config, parallel)
    if table is not None:
        print(text_table(table))
        if options.out is not None:
            write_file(options.out, f"{json.dumps(table, indent=1)}\n".encode())
    return 0


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raises UserError if one of these options is given."""
    for name in names:
        if (value := getattr(options, name)) is not None and value is not False:
            raise UserError(f"--{'set' if name == 'changes' else name.replace('_', '-')}: {why}")


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """The options of models that are given; others are those of `EvaluateConfig`."""
    given = {name: getattr(options, name) for name in ("data", *_MODELS)}
    return {name: value for name, value in given.items() if value is not None}


def _consistency(options: argparse.Namespace) -> int:
    if options.data is None or bool(options.what) == bool(options.videos):
        raise UserError("--suite 4d: expected runs, model folders or folders of clips, or --videos, and --data")
    if (options.videos is None) != (options.reader is None):
        raise UserError("--suite 4d: --videos and --reader belong together: it reads depth and motion off them")
    from phys4d.engine.config import build
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.output import check_folder
    from phys4d.evaluate.consistency.models import is_model, model_folders, score_models
    from phys4d.evaluate.consistency.suite import score_folders, write_results
    from phys4d.evaluate.consistency.table import text_table
    from phys4d.evaluate.scenes import EvaluateConfig

    if options.out is not None:
        check_folder(options.out)
    models = [path for path in options.what if is_model(path)]
    if models and len(models) < len(options.what):
        other = next(path for path in options.what if path not in models)
        raise UserError(f"{other}: is no model, and {models[0]} is one: score models and folders of clips one by one")
    if options.videos:
        rows = _of_videos(options)
    elif models:
        _refuse(options, ("baselines", "workers"), "belongs to folders of clips")
        config = build(EvaluateConfig, _settings(options), "evaluate")
        with Parallel.start() as parallel:
            rows = score_models(model_folders(models), config, parallel)
    else:
        _refuse(options, _MODELS, "belongs to models")
        rows = score_folders(
            options.what, options.data, baselines=options.baselines, workers=options.workers or 2,
            say=_say,
        )  # fmt: skip
    if rows is not None:
        for line in text_table(rows).splitlines():
            print(printable(line))
        if options.out is not None:
            write_results(rows, options.out)
    return 0


def _of_videos(options: argparse.Namespace) -> dict[str, dict[str, Any]] | None:
    """The rows of videos, read by teachers or by a model; None on ranks but 0."""
    from phys4d.engine.config import build
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.evaluate.consistency.models import is_model, model_folders
    from phys4d.evaluate.consistency.taught import score_by_teachers
    from phys4d.evaluate.consistency.videos import score_videos, video_folders
    from phys4d.evaluate.scenes import EvaluateConfig
    from phys4d.teachers.registry import choose

    taught, whose = options.reader == _TEACHERS, f"does not belong to --reader {options.reader}"
    _refuse(options, ("baselines", "scenes", "samples", "on_bad"), "does not belong to --videos")
    _refuse(options, ("seed", "precision") if taught else ("workers",), whose)
    if taught:
        folders, given = {"scenes": options.teacher_scenes, "weights": options.weights}, options.changes or ()
        names = options.teacher or "small", options.flow or "dis"
        depth, flow = choose(*names, folders, None, given, scenes_option="--teacher-scenes")
        found = video_folders(options.videos, options.data)
        return score_by_teachers(found, options.data, depth, flow, workers=options.workers or 2, say=_say)
    if not is_model(options.reader) or len(model_folders([options.reader])) != 1:
        raise UserError(
            f"--reader {options.reader}: expected the folder of one model, such as RUN/model-finetune, or teachers"
        )
    found = video_folders(options.videos, options.data)
    config = build(EvaluateConfig, _settings(options), "evaluate")
    [reader] = model_folders([options.reader]).values()
    with Parallel.start() as parallel:
        return score_videos(found, reader, config, parallel, say=_say)


def _say(line: str) -> None:
    print(printable(line))


def _physics_iq(options: argparse.Namespace) -> int:
    if options.what or options.data is not None:
        raise UserError("--suite physics-iq: scores videos, not a model: leave the model folder and --data out")
    if options.videos is None or options.benchmark is None:
        raise UserError("--suite physics-iq: expected --videos and --benchmark")
    _refuse(options, (*_MODELS, "baselines", "reader"), "does not belong to --suite physics-iq")
    from phys4d.evaluate.physics_iq.run import Variant, score_folders, text_table

    variant: Variant = options.variant or "verified"
    found = score_folders(
        options.videos, options.benchmark, options.out, descriptions=options.descriptions, variant=variant,
        workers=options.workers or 2, say=_say,
    )  # fmt: skip
    for line in text_table(found, variant).splitlines():
        print(printable(line))
    return 0


def _compare(options: argparse.Namespace) -> int:
    if options.what or options.data is not None or options.suite is not None:
        raise UserError("--compare: takes results that are there: leave models, --data and --suite out")
    _refuse(options, (*_MODELS, *_BENCHMARK, *_VIDEOS, "baselines", "workers"), "does not belong to --compare")
    if len(options.compare) < 2:
        raise UserError(f"--compare {options.compare[0]}: expected two results or more")
    from phys4d.engine.output import check_file, write_file
    from phys4d.evaluate.compare import compare, read_all

    if options.out is not None:
        check_file(options.out)
    found = compare(read_all(options.compare))
    for other in found["others"].values():
        for line in other["words"]:
            print(printable(line))
    if options.out is not None:
        text = f"{json.dumps(found, indent=1)}\n"
        if options.out.suffix == ".html":
            from phys4d.report.comparison import comparison_page

            text = comparison_page(found)
        write_file(options.out, text.encode())
    return 0
