"""The slices of the run and their cases, in order of importance, with predicted seconds."""

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from phys4d.benchmarks.cases import ADAPTIVE_NORM, ATTENTION, BLOCKS, GEOMETRY, NORM_ROPE
from phys4d.benchmarks.comparison import Effort
from phys4d.benchmarks.gpu_run import checks, wall

MINUTES = 8.0  # the most that a slice may take
ESSENTIAL_MINUTES = 26.0  # the most that all essential slices may take together, as predicted
KERNELS = 150  # the most kernels that the slice `check` compiles without --full
EFFORT = Effort(rounds=25, seconds=5.0)
TUNED = ("wan-adaptive-frames",)  # the cases whose rivals include max-autotune without --full
PATIENCE, LEAST = 5.0, 60.0  # a case is given up after this many times its predicted seconds, and at least these
REHEARSAL = 3.0  # predicted seconds of a case in the rehearsal


@dataclass(frozen=True)
class Item:
    """A case of a slice.

    Attributes:
        name: of the case.
        seconds: predicted.
        kernels: of ours that it compiles; counted in the slice `check` only.
        without: rivals that take no part, and why.
    """

    name: str
    seconds: float
    kernels: int = 0
    without: tuple[tuple[str, str], ...] = ()

    @property
    def limit(self) -> float:
        """Seconds after which the case is given up."""
        return max(LEAST, PATIENCE * self.seconds)


@dataclass(frozen=True)
class Slice:
    """A part of the run, in a process of its own.

    Attributes:
        name: on the command line, and of its file.
        what: it measures, for `plan`.
        needs: what must be there, for `plan`.
        items: its cases, the most important first.
        essential: it counts among the slices that must fit one half hour.
    """

    name: str
    what: str
    needs: str
    items: tuple[Item, ...]
    essential: bool = True

    @property
    def seconds(self) -> float:
        """Predicted, with the start of the process."""
        return wall.START + sum(item.seconds for item in self.items)


@functools.cache
def slices(full: bool = False, stand_in: bool = False) -> tuple[Slice, ...]:
    """All slices in the order of the run.

    full: with the checks and rivals that do not fit the essential minutes. stand_in: the rehearsal, with all cases.
    """
    base = "torch, triton, numpy"
    made = (
        Slice("check", "every kernel: results and gradients beside float64 and torch, two runs bit for bit", base,
              tuple(_checks(full))),
        Slice("attention", "attention of six models beside every peer", base,
              tuple(Item(case.name, wall.attention(case, EFFORT)) for case in ATTENTION)),
        Slice("tune", "the order in which `attention` chooses backends here", "the rows of attention",
              (Item("choices", 1.0),)),
        Slice("elementwise", "norm and rotation; gate, residual, norm and modulation", base,
              tuple(_elementwise(full))),
        Slice("geometry", "losses, warps and Chamfer distances", base,
              tuple(Item(case.name, wall.of_geometry(case, EFFORT)) for case in GEOMETRY)),
        Slice("blocks", "whole blocks: stock, compiled, with our operators", f"{base}; two of four cases: diffusers",
              tuple(Item(case.name, wall.block(case, EFFORT)) for case in BLOCKS)),
        Slice("step", "a training step of Wan2.2-TI2V-5B's width, few layers, through the engine",
              f"{base}, pydantic, diffusers, peft, safetensors", (Item("wan-step", 90.0),), essential=False),
    )  # fmt: skip
    return tuple(map(rehearsed, made)) if stand_in else made


def named(names: Iterable[str], **options: bool) -> list[Slice]:
    """The named slices in the order of the run, all if none is named; KeyError with the first unknown name."""
    known = {part.name: part for part in slices(**options)}
    for name in names:
        if name not in known:
            raise KeyError(name)
    chosen = set(names) or set(known)
    return [part for part in known.values() if part.name in chosen]


def table(full: bool = False) -> str:
    """Markdown: every slice with its predicted minutes, kernels and needs, and the sum of the essential ones."""
    lines = ["| slice | minutes predicted | cases | what | needs |", "|---|---|---|---|---|"]
    for part in slices(full):
        minutes = f"{part.seconds / 60:.1f}" + ("" if part.essential else ", not essential")
        lines.append(f"| {part.name} | {minutes} | {len(part.items)} | {part.what} | {part.needs} |")
    total = sum(part.seconds for part in slices(full) if part.essential) / 60
    kernels = sum(item.kernels for item in slices(full)[0].items)
    lines += [
        "", f"Essential slices together: {total:.1f} minutes. `check` compiles about {kernels} kernels, fewer where "
        "TRITON_CACHE_DIR names a folder that holds them.",
    ]  # fmt: skip
    return "\n".join(lines)


def rehearsed(part: Slice) -> Slice:
    """The slice as the rehearsal runs it: every case in a few seconds."""
    return dataclasses.replace(part, items=tuple(dataclasses.replace(i, seconds=REHEARSAL) for i in part.items))


def _checks(full: bool) -> Iterable[Item]:
    for check in checks.every():
        if check.essential or full:
            yield Item(check.name, check.seconds + wall.KERNEL * check.kernels, check.kernels)


def _elementwise(full: bool) -> Iterable[Item]:
    for case in (*NORM_ROPE, *ADAPTIVE_NORM):
        tuned = full or case.name in TUNED
        left = () if tuned else tuple(
            (f"compiled, max-autotune{rows}", "its compiling takes minutes: --full") for rows in ("", ", rows")
        )  # fmt: skip
        yield Item(case.name, wall.elementwise(case, EFFORT, tuned and case in ADAPTIVE_NORM), without=left)
