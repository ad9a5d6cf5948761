"""What was measured to be fastest, per GPU and class of calls: where "auto" looks first.

A table is a JSON file in `tables/`, named after the GPU, that `phys4d bench attention --tune` writes:

    {"format": 3, "gpu": ..., "date": ..., "torch": ..., "triton": ..., "classes": [
        {"case": ..., <the fields of Traits>, "seen": ..., "backends": [...]}, ...]}

A class holds the backends that served it, fastest first. A call belongs to the class with equal `Traits`, which decide
which backends can serve, and with the number of keys that a video query sees (`seen`) nearest to its own, at most a
factor of four away. Nothing is timed while a model runs. A file of another form is ignored with a warning of one line.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from phys4d.kernels.attention.backends.triton import fuses
from phys4d.kernels.attention.call import Call
from phys4d.kernels.dispatch import constant_for_process, determinism, gpu_name

FOLDER = Path(__file__).parent / "tables"
FORMAT = 3
_AGAIN = "phys4d bench attention --tune writes it anew"


class Traits(NamedTuple):
    """What decides which backends can serve a call, and which is the fastest, beside the number of keys.

    Attributes:
        pattern: its name.
        causal: whether its rows are causal.
        dim: channels of a head of queries and keys.
        bits: of a number: 16, 32 or 64.
        text: whether there is text outside of the pattern; `Full` has none.
        padded: whether there are key_lengths.
        lse: whether lse is returned.
        fused: whether our kernel would norm or rotate queries and keys, for which others need a pass before.
        training: whether gradients are wanted.
        deterministic: whether they are wanted under deterministic algorithms.
        value_dim: channels of a head of values.
        group: heads of queries that share one of keys and values.
        masked: whether there is a mask.
    """

    pattern: str
    causal: bool
    dim: int
    bits: int
    text: bool
    padded: bool
    lse: bool
    fused: bool
    training: bool
    deterministic: bool
    value_dim: int
    group: int
    masked: bool


class Entry(NamedTuple):
    """A class that was measured: its case, traits and keys of a video query, and its backends, fastest first."""

    case: str
    traits: Traits
    seen: int
    backends: tuple[str, ...]


class Table(NamedTuple):
    """What was measured on one GPU, when, and with which versions."""

    gpu: str
    date: str
    torch: str
    triton: str
    entries: tuple[Entry, ...]


class Ranking(NamedTuple):
    """Backends fastest first (none where nothing was measured), the case they come from, and what to know of both."""

    backends: tuple[str, ...]
    source: str
    note: str | None


def traits(call: Call) -> Traits:
    """The traits of a call."""
    return Traits(
        pattern=call.pattern.name,
        causal=call.causal,
        dim=call.q.shape[-1],
        bits=8 * call.q.element_size(),
        text=call.text_tokens > 0 and not call.one_row,
        padded=call.key_lengths is not None,
        lse=call.return_lse,
        fused=fuses(call),
        training=call.training,
        deterministic=call.training and determinism() != "off",
        value_dim=call.v.shape[-1],
        group=call.q.shape[2] // max(1, call.k.shape[2]),
        masked=call.mask is not None,
    )


def keys_per_query(call: Call) -> int:
    """Keys of its pattern that a video query sees."""
    if call.one_row:
        return call.k.shape[1]
    assert call.grid is not None
    return call.pattern.keys_per_query(call.grid)


def ranking(call: Call) -> Ranking | None:
    """The measured order for this call; None where nothing is measured, which is outside of CUDA."""
    if not call.q.is_cuda:
        return None
    table, note = table_of(call.q.device.index)
    return Ranking((), "", note) if table is None else nearest(table, call, note)


def nearest(table: Table, call: Call, note: str | None = None) -> Ranking:
    """The order of the call's class with the nearest number of keys; none where it is over a factor of four away."""
    wanted, seen = traits(call), keys_per_query(call)
    best, factor = None, 4.0
    for entry in table.entries:
        if entry.traits == wanted:
            away = max(entry.seen / seen, seen / entry.seen)
            if away < factor or (best is None and away == factor):
                best, factor = entry, away
    if best is None:
        return Ranking((), "", f"the table of {table.gpu}, {table.date}, has no class like this call")
    return Ranking(best.backends, f"{best.case} on {table.gpu}, {table.date}", note)


def slug(gpu: str) -> str:
    """The name of a GPU as that of a file: NVIDIA H200 gives nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def as_json(table: Table) -> dict[str, Any]:
    """The table as its file holds it."""
    head = {"format": FORMAT, "gpu": table.gpu, "date": table.date, "torch": table.torch, "triton": table.triton}
    classes = [
        {"case": entry.case, **entry.traits._asdict(), "seen": entry.seen, "backends": list(entry.backends)}
        for entry in table.entries
    ]
    return head | {"classes": classes}


def parse(data: Any) -> Table:
    """The table of what its file holds; ValueError with the first fault."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    entries = []
    for item in _field(data, "classes", list):
        if not isinstance(item, dict):
            raise ValueError("a class is no object")
        found = Traits(*(_field(item, name, kind) for name, kind in Traits.__annotations__.items()))
        seen, backends = _field(item, "seen", int), _field(item, "backends", list)
        if seen < 1 or not backends or not all(isinstance(name, str) for name in backends):
            raise ValueError("a class sees no key, or has no names of backends")
        entries.append(Entry(_field(item, "case", str), found, seen, tuple(backends)))
    gpu, date, torch_version, triton_version = (_field(data, name, str) for name in ("gpu", "date", "torch", "triton"))
    return Table(gpu, date, torch_version, triton_version, tuple(entries))


def _field(item: dict[str, Any], name: str, kind: type) -> Any:
    value = item.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


@constant_for_process
def table_of(index: int) -> tuple[Table | None, str | None]:
    """The table of a CUDA device, None where there is none that can be used, and what to know of it."""
    gpu = gpu_name(index)
    file = FOLDER / f"{slug(gpu)}.json"
    try:
        table = parse(json.loads(file.read_text()))
    except FileNotFoundError:
        return None, f"nothing was measured on {gpu}: phys4d bench attention --tune does"
    except (OSError, ValueError) as fault:
        line = f"{file} is ignored: {' '.join(str(fault).split())}; {_AGAIN}"
        warnings.warn(line, stacklevel=2)
        return None, line
    notes = []
    if table.gpu != gpu:
        notes.append(f"measured on {table.gpu}, this is {gpu}")
    measured, here = (table.torch, table.triton), (str(torch.__version__), triton.__version__)
    if measured != here:
        notes.append("measured with torch {} and triton {}, here are {} and {}".format(*measured, *here))
    return table, "; ".join(notes) or None
