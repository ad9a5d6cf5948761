"""Step time, throughput and peak memory of every training stage.

    phys4d bench train runs/demo [--steps 30] [--out DIR] [--adopt]

runs each stage of a finished demo again for some steps, in a process of its own, so that peak memory is that of the
stage alone, from the model that the stage started from. The first steps, which warm up, are not counted. `--adopt` also
writes the result to benchmarks/results/train/ and fills the README's table.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results

WARM_UP = 3  # steps


def measure(demo: Path, steps: int) -> dict[str, Any]:
    """Step time in seconds, samples per second and peak memory in MiB of all stages of a finished demo."""
    from phys4d.engine.config import dump_toml, load_toml
    from phys4d.engine.errors import UserError
    from phys4d.engine.run_folder.provenance import provenance
    from phys4d.engine.training.loop import LoopConfig
    from phys4d.stages.registry import STAGES
    from phys4d.stages.run_file import RunConfig

    if not (demo / "summary.json").exists():
        raise UserError(f"{demo}: expected the folder of a finished demo: run phys4d demo first")
    whole = load_toml(demo / "config.toml", RunConfig)
    figures = {}
    given = whole.init
    for stage in whole.stages:
        with tempfile.TemporaryDirectory() as place:
            table = whole.table(stage)
            short = LoopConfig(steps=steps, log_every=1, checkpoint_every=0)
            change = {
                "folder": Path(place) / "run", "stages": (stage,), "init": given, "evaluate": None,
                stage: table.model_copy(update={"loop": short, "gate": {}}),
            }  # fmt: skip
            file = Path(place) / "run.toml"
            file.write_text(dump_toml(RunConfig.model_validate(whole.model_copy(update=change))))
            print(f"{stage}: {steps} steps", flush=True)
            done = subprocess.run(
                [sys.executable, "-m", "phys4d.benchmarks.train", "--one", str(file)], stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                raise UserError(f"{stage}: its process ended with {done.returncode}, see above")
            memory = json.loads(done.stdout.splitlines()[-1])
            lines = (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()
            seconds = [json.loads(line)["seconds"] for line in lines][WARM_UP:]
        samples = STAGES[stage].samples(table)
        figures[stage] = _figures(seconds, samples) | memory
        given = demo / f"model-{stage}"
    return {"stages": figures, "steps": steps, "provenance": provenance()}


def _figures(seconds: list[float], samples: int) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=5)
    median = statistics.median(seconds)
    return {"seconds": median, "seconds_p20": cuts[0], "seconds_p80": cuts[3], "samples_per_second": samples / median}


def one(file: Path) -> dict[str, float]:
    """Runs a run file in this process and returns its peak memory in MiB."""
    import resource

    import torch

    from phys4d.train import train

    train(file, [], resume=None, dry_run=False)
    memory = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        memory["peak_cuda_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return memory


def table(figures: dict[str, Any]) -> str:
    """Markdown: one row per stage, with machine and versions."""
    lines = ["| stage | step s (p20, p80) | samples/s | peak memory MiB |", "|---|---|---|---|"]
    for stage, row in figures["stages"].items():
        memory = f"{row['peak_rss_mb']:.0f}" + (f", {row['peak_cuda_mb']:.0f} GPU" if "peak_cuda_mb" in row else "")
        lines.append(
            f"| {stage} | {row['seconds']:.3f} ({row['seconds_p20']:.3f}, {row['seconds_p80']:.3f}) "
            f"| {row['samples_per_second']:.1f} | {memory} |"
        )
    where = figures["provenance"]
    return "\n".join([*lines, "", f"{results.origin(where, 'cuda' if where['gpus'] else 'cpu')}."])


def bench(demo: Path, steps: int, out: Path | None, adopt: bool) -> None:
    """Measures and prints the table; writes train.json to `out`, and with `adopt` the committed result."""
    from phys4d.engine.output import check_folder

    if out is not None:
        check_folder(out)
    figures = measure(demo, steps)
    print(table(figures))
    if out is not None:
        results.write(out / "train.json", figures)
    if adopt:
        results.write(results.COMMITTED / "train" / "cpu.json", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.train")
    parser.add_argument("--one", type=Path, required=True, help="a run file, to be run in this process")
    print(json.dumps(one(parser.parse_args().one)))
