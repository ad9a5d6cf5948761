"""Fills every generated part of the README and of docs/ from the committed results.

    python -m phys4d.benchmarks.publish

A generated part stands between `<!-- name -->` and `<!-- /name -->`. `PARTS` is the one list of them: page, name of the
part, committed results below benchmarks/results/, and the function that makes the text from those results. Benchmarks
measure and write results; they know nothing of pages.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phys4d.benchmarks import (
    adaptive_norm_cpu,
    block_memory,
    chamfer,
    demo,
    diffusers_tests,
    generation_memory,
    geometry_predictions,
    head_memory,
    host_cost,
    int8_error,
    losses,
    machine_code,
    model_memory,
    phases,
    physics_iq,
    policy,
    predictions,
    pretrained,
    read_checks,
    renderers,
    results,
    rewards,
    simulation,
    simulation_cost,
    simulation_lengths,
    simulation_truth,
    tiling_error,
    train,
    tree_visits,
    warping,
)
from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, INT8, NORM_ROPE
from phys4d.benchmarks.gpu_run import plan as run_plan
from phys4d.benchmarks.gpu_run import tables
from phys4d.dry_run import tables as dry_run
from phys4d.kernels.integrate.diffusers import __main__ as known_models

ROOT = Path(__file__).resolve().parent.parent
README = "README.md"
ATTENTION_PAGE, ELEMENTWISE_PAGE = "docs/attention-kernels.md", "docs/elementwise-kernels.md"
MODELS_PAGE, GENERATE_PAGE = "docs/pretrained-models.md", "docs/generate-and-export.md"
GEOMETRY_PAGE, SIMULATION_PAGE, POLICY_PAGE = "docs/geometry-kernels.md", "docs/simulation.md", "docs/policy-study.md"
CARD_PAGE = "phys4d/models/small/pretrained/README.md"
CLUSTER_PAGE = "docs/from-a-laptop-to-a-cluster.md"
DATA_PAGE = "engine/data/README.md"
RUN_PAGE, WAYS_PAGE, USE_PAGE = "docs/gpu-run.md", "docs/ways-into-a-model.md", "docs/use-the-attention.md"
ELEMENTWISE = (*NORM_ROPE, *ADAPTIVE_NORM)
MACHINE_CODE, GEOMETRY_CODE = "machine-code.json", "machine-code-geometry.json"
ONE_GPU = ("wan2.2-5b-full-1", "cogvideox-5b-1", "opensora-1.2-1", "wan2.2-5b-720p-1")
EIGHT_GPUS = ("wan2.1-t2v-14b-8", "wan2.1-14b-720p-8")
Kernels = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A generated part of a page.

    Attributes:
        page: path from the repository root.
        name: the name in its two marks.
        sources: JSON files below benchmarks/results/.
        render: makes the text from the parsed sources, in their order.
    """

    page: str
    name: str
    sources: tuple[str, ...]
    render: Callable[..., str]

    def text(self) -> str:
        """The text between the marks, from the committed results."""
        return self.render(*map(results.committed, self.sources))


def _attention_predictions(kernels: Kernels) -> str:
    return f"{predictions.table(kernels, ATTENTION)}\n\n{predictions.assumptions()}"


def _attention_code(kernels: Kernels) -> str:
    return machine_code.table(machine_code.of_cases(kernels, (*ATTENTION, *INT8)))


def _elementwise_predictions(kernels: Kernels) -> str:
    return predictions.table(kernels, ELEMENTWISE)


def _elementwise_code(kernels: Kernels) -> str:
    return machine_code.table(machine_code.of_cases(kernels, ELEMENTWISE))


PARTS = (
    Part(README, "demo", ("demo/summary.json",), demo.table),
    Part(README, "phases", ("phases/summary.json",), phases.table),
    Part(README, "train", ("train/cpu.json",), train.table),
    Part(README, "block memory", ("block-memory.json",), block_memory.sentence),
    Part(ATTENTION_PAGE, "measured", (), tables.measured("attention")),
    Part(ATTENTION_PAGE, "predictions", (MACHINE_CODE,), _attention_predictions),
    Part(ATTENTION_PAGE, "machine code", (MACHINE_CODE,), _attention_code),
    Part(ATTENTION_PAGE, "int8 error", ("int8-error.json",), int8_error.summary),
    Part(ELEMENTWISE_PAGE, "measured", (), tables.measured("elementwise")),
    Part(ELEMENTWISE_PAGE, "measured blocks", (), tables.measured("blocks")),
    Part(ELEMENTWISE_PAGE, "predictions", (MACHINE_CODE,), _elementwise_predictions),
    Part(ELEMENTWISE_PAGE, "machine code", (MACHINE_CODE,), _elementwise_code),
    Part(ELEMENTWISE_PAGE, "block memory", ("block-memory.json",), block_memory.summary),
    Part(ELEMENTWISE_PAGE, "host cost", ("host-cost.json",), host_cost.summary),
    Part(ELEMENTWISE_PAGE, "cpu", ("adaptive_norm_cpu/adaptive_norm_cpu.json",), adaptive_norm_cpu.summary),
    Part(MODELS_PAGE, "head memory", ("head-memory.json",), head_memory.summary),
    Part(MODELS_PAGE, "model memory", ("model-memory.json",), model_memory.summary),
    Part(CARD_PAGE, "pretrained", ("pretrained.json",), pretrained.table),
    Part(GENERATE_PAGE, "generation memory", generation_memory.sources(), generation_memory.summary),
    Part(GENERATE_PAGE, "tiling error", ("tiling-error.json",), tiling_error.summary),
    Part(GEOMETRY_PAGE, "tree visits", ("tree-visits.json",), tree_visits.summary),
    Part(GEOMETRY_PAGE, "measured", (), tables.measured("geometry")),
    Part(GEOMETRY_PAGE, "predictions", (GEOMETRY_CODE,), geometry_predictions.table),
    Part(GEOMETRY_PAGE, "losses", ("losses/losses.json",), losses.summary),
    Part(GEOMETRY_PAGE, "chamfer", ("chamfer/chamfer.json",), chamfer.summary),
    Part(GEOMETRY_PAGE, "warping", ("warping/warping.json",), warping.summary),
    Part(GEOMETRY_PAGE, "machine code", (GEOMETRY_CODE,), machine_code.table),
    Part(USE_PAGE, "families", (), lambda: "\n".join(known_models.parts())),
    Part(WAYS_PAGE, "diffusers tests", ("diffusers-tests.json",), diffusers_tests.summary),
    Part(RUN_PAGE, "plan", (), run_plan.table),
    Part(RUN_PAGE, "measured run", (), tables.walls),
    Part(RUN_PAGE, "measured step", (), tables.steps),
    Part(CLUSTER_PAGE, "1 GPU", ("dry-run/1.json",), dry_run.report),
    Part(CLUSTER_PAGE, "8 GPUs", ("dry-run/8.json",), dry_run.report),
    Part(CLUSTER_PAGE, "8 GPUs, long clips", ("dry-run/long-8.json",), dry_run.report),
    Part(CLUSTER_PAGE, "8 GPUs, CogVideoX-5B", ("dry-run/cogvideox-5b-8.json",), dry_run.report),
    Part(CLUSTER_PAGE, "8 GPUs, CogVideoX-5B, long clips", ("dry-run/cogvideox-5b-long-8.json",), dry_run.report),
    Part(CLUSTER_PAGE, "8 GPUs, Open-Sora 1.2", ("dry-run/opensora-1.2-8.json",), dry_run.report),
    Part(CLUSTER_PAGE, "1 GPU, Wan2.1-1.3B", ("dry-run/wan2.1-1.3b-1.json",), dry_run.report),
    Part(CLUSTER_PAGE, "1 GPU, CogVideoX-5B", ("dry-run/cogvideox-5b-1.json",), dry_run.report),
    Part(CLUSTER_PAGE, "8 GPUs, Wan2.1-14B", ("dry-run/wan2.1-14b-8.json",), dry_run.report),
    Part(CLUSTER_PAGE, "one GPU, full checkpointing", tuple(f"dry-run/{n}.json" for n in ONE_GPU), dry_run.compared),
    Part(CLUSTER_PAGE, "8 GPUs, further", tuple(f"dry-run/{n}.json" for n in EIGHT_GPUS), dry_run.compared),
    Part(CLUSTER_PAGE, "64 GPUs", ("dry-run/64.json",), dry_run.report),
    Part(CLUSTER_PAGE, "512 GPUs", ("dry-run/512.json",), dry_run.report),
    Part(CLUSTER_PAGE, "assumptions", ("dry-run/1.json",), dry_run.assumptions),
    Part(SIMULATION_PAGE, "families", (), simulation.families_table),
    Part(SIMULATION_PAGE, "cost", ("simulation/cost.json",), simulation_cost.table),
    Part(SIMULATION_PAGE, "lengths", ("simulation/lengths.json",), simulation_lengths.table),
    Part(SIMULATION_PAGE, "truth", ("simulation/truth.json",), simulation_truth.table),
    Part(SIMULATION_PAGE, "renderers", ("simulation/renderers.json",), renderers.table),
    Part(SIMULATION_PAGE, "workers", ("simulation/workers.json",), simulation.workers_table),
    Part("docs/physics-iq.md", "physics-iq", ("physics-iq.json",), physics_iq.summary),
    Part(DATA_PAGE, "read checks", ("read-checks.json",), read_checks.table),
    Part(POLICY_PAGE, "policy", ("policy/summary.json",), policy.table),
    Part(POLICY_PAGE, "gradient", ("policy/gradient.json",), policy.table),
    Part(POLICY_PAGE, "rewards", ("rewards.json",), rewards.table),
)


def filled(text: str, name: str, content: str) -> str:
    """The text with `content` between `<!-- name -->` and `<!-- /name -->`; ValueError without exactly one."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(\n<!-- /{re.escape(name)} -->)", re.DOTALL)
    found, count = pattern.subn(lambda match: match.group(1) + content + match.group(2), text)
    if count != 1:
        raise ValueError(f"expected one <!-- {name} --> ... <!-- /{name} -->, found {count}")
    return found


def complete(page: str) -> str:
    """The content of a page with its generated parts filled in from the committed results."""
    text = (ROOT / page).read_text()
    for part in (part for part in PARTS if part.page == page):
        text = filled(text, part.name, part.text())
    return text


def publish() -> None:
    """Fills the generated parts of all pages of this checkout."""
    for page in dict.fromkeys(part.page for part in PARTS):
        (ROOT / page).write_text(complete(page))


if __name__ == "__main__":
    publish()
