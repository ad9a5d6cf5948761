"""`phys4d bench` and `doctor`: what this machine can run, and how fast."""

import argparse
import json
from pathlib import Path

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable


def add_bench(commands: Commands) -> None:
    """Adds `bench` with its subjects."""
    bench = commands.add_parser("bench", help="measure speed and memory on this machine")
    subjects = bench.add_subparsers(required=True, metavar="what")
    for kind, what in (
        ("attention", "attention on the shapes of real models, beside every peer that is here"),
        ("elementwise", "norm and rotation; gate, residual, norm and modulation, beside every peer that is here"),
        ("blocks", "whole blocks of published video transformers: stock, compiled, and with our operators"),
        ("geometry", "losses of 4D geometry and Chamfer distances, beside torch and the libraries that are here"),
    ):
        kernels = subjects.add_parser(kind, help=what)
        kernels.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
        kernels.add_argument("--quick", action="store_true", help="few rounds: under a minute")
        kernels.add_argument("--case", action="append", metavar="NAME", help="one case; repeat for several")
        kernels.add_argument("--backend", action="append", metavar="NAME", help="one peer; repeat for several")
        kernels.add_argument("--out", type=Path, help="write rows as JSON, tables and plots to this folder")
        if kind == "attention":
            kernels.add_argument("--tune", action="store_true", help="write the table of this GPU's fastest backends")
        kernels.set_defaults(command=_bench_kernels, kind=kind, tune=False)
    data = subjects.add_parser("data", help="video decoding: PyAV, DALI and torchcodec, those that are here")
    data.add_argument("--device", choices=("cpu", "cuda"), help="where DALI decodes; default: cuda where there is one")
    data.add_argument("--quick", action="store_true", help="few clips and rounds: a minute")
    data.add_argument("--case", action="append", metavar="NAME", help="one kind of clips; repeat for several")
    data.add_argument("--out", type=Path, help="write data.json and data.md to this folder")
    data.set_defaults(command=_bench_data)
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


def _bench_kernels(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.run import bench

    bench(
        options.kind, device=options.device, quick=options.quick, names=options.case, backends=options.backend,
        out=options.out, tune=options.tune,
    )  # fmt: skip
    return 0


def _bench_data(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.decoding import bench

    bench(options.device, options.quick, options.case, options.out)
    return 0


def _bench_train(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.train import WARM_UP, bench

    if options.steps < WARM_UP + 5:
        raise UserError(f"--steps {options.steps}: expected at least {WARM_UP + 5}, {WARM_UP} of which warm up")
    bench(options.demo, options.steps, options.out, options.adopt)
    if options.adopt:
        from phys4d.benchmarks.publish import publish

        publish()
    return 0


def _bench_plot(options: argparse.Namespace) -> int:
    from phys4d.benchmarks.run import show_again

    for file in options.results:
        show_again(file)
        print(printable(f"{file.with_suffix('.md')}, {file.with_suffix('.svg')}"))
    return 0


def add_doctor(commands: Commands) -> None:
    """Adds `doctor`."""
    doctor = commands.add_parser(
        "doctor", help="what this machine can run, which backends are there, and why one is not"
    )
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from phys4d.doctor import collect, render

    report = collect()
    print(json.dumps(report, indent=1) if options.json else render(report))
    return 0
