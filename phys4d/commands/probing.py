"""`phys4d probe`: which blocks, at which noise level, know depth and motion."""

import argparse
from pathlib import Path

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable
from phys4d.engine.paths import given_location

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)


def add_probe(commands: Commands) -> None:
    """Adds `probe`."""
    probe = commands.add_parser("probe", help="which blocks of a model, at which noise level, know depth and motion")
    probe.add_argument("model", type=Path, metavar="MODEL", help="of a run, of a stage, or a published model")
    probe.add_argument("--data", required=True, help="labelled clips of one size: a folder, or its URL")
    probe.add_argument("--out", type=Path, metavar="DIR", help="also write probe.csv, probe.json and probe.png there")
    probe.add_argument(
        "--taps", nargs="+", metavar="A,B,...", help="sets of blocks, read together (default: each block alone)"
    )
    probe.add_argument(
        "--sigmas", nargs="+", type=float, default=list(SIGMAS), metavar="S",
        help=f"noise levels between 0 and 1 (default: {' '.join(map(str, SIGMAS))})",
    )  # fmt: skip
    probe.add_argument("--clips", type=int, default=64, help="the first so many; every fourth measures (default: 64)")
    probe.add_argument("--ridge", type=float, default=0.01, help="strength of the penalty, above 0 (default: 0.01)")
    probe.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    probe.add_argument("--device", help="such as cpu or cuda:1 (default: the first accelerator)")
    probe.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 on an accelerator, fp32 on a CPU")
    probe.set_defaults(command=_probe)


def _probe(options: argparse.Namespace) -> int:
    _check(options)
    sets = None if options.taps is None else [_set(text) for text in options.taps]
    from phys4d.commands.generation import chosen_device
    from phys4d.engine.output import check_folder
    from phys4d.models.backbone import Precision
    from phys4d.probe.opening import open_probed
    from phys4d.probe.results import tables, write_results
    from phys4d.probe.sweep import Settings, sweep

    device = chosen_device(options.device)
    if options.out is not None:
        check_folder(options.out)
    data = given_location(options.data)
    probed = open_probed(options.model, data, options.clips, sets)
    precision: Precision = options.precision or ("fp32" if device.type == "cpu" else "bf16")
    sigmas = tuple(dict.fromkeys(options.sigmas))
    found = sweep(probed, Settings(sigmas, options.ridge, options.seed, precision, device))
    for line in tables(found).splitlines():
        print(printable(line))
    if options.out is not None:
        about = {"model": f"{options.model}", "data": f"{data}", "ridge": options.ridge, "seed": options.seed}
        write_results(found, options.out, about | {"precision": precision})
        print(printable(f"{options.out}: probe.csv, probe.json, probe.png"))
    return 0


def _check(options: argparse.Namespace) -> None:
    """UserError for options out of range."""
    for sigma in options.sigmas:
        if not 0 < sigma < 1:
            raise UserError(f"--sigmas {sigma:g}: expected numbers between 0 and 1")
    if options.clips < 4:
        raise UserError(f"--clips {options.clips}: expected 4 or more, of which every fourth is held out")
    if not 0 < options.ridge <= 1e6:
        raise UserError(f"--ridge {options.ridge:g}: expected a number above 0, up to 1e6")
    if not 0 <= options.seed <= 1 << 62:
        raise UserError(f"--seed {options.seed}: expected 0 to {1 << 62}")


def _set(text: str) -> tuple[int, ...]:
    """Blocks of one set: "3" or "3,7"."""
    try:
        blocks = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--taps {text}: expected numbers of blocks with commas between, such as 9,19,29") from None
    if min(blocks) < 0 or len(set(blocks)) < len(blocks):
        raise UserError(f"--taps {text}: expected different blocks, from 0 on")
    return blocks
