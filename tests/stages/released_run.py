"""Run files of a few steps for small models in the layout of published ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "finetune", "reinforce")
STEPS = 2
SUPERVISED = {"batch": 2, "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": STEPS, "log_every": 1}}
TABLES: dict[str, dict[str, Any]] = {
    "pretrain": SUPERVISED,
    "finetune": SUPERVISED | {"rank": 2},
    "reinforce": {
        "rank": 2, "conditions": 2, "group": 2, "steps": 3, "stochastic_steps": 2, "flow_matching_batch": 2,
        "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": STEPS, "log_every": 1},
    },
    "reward_gradient": {
        "rank": 2, "conditions": 2, "steps": 3, "gradient_steps": 2, "flow_matching_batch": 2,
        "optimizer": {"learning_rate": 1e-3}, "loop": {"steps": STEPS, "log_every": 1},
    },
    "evaluate": {"scenes": 2, "samples": 1, "shown": 1, "batch": 2},
}  # fmt: skip


def run_text(
    folder: Path, init: Path, data: Path, *, kind: str = "wan", last_tap: int = 2, stages: Sequence[str] = STAGES,
    evaluate: dict[str, Any] | None = None, **changes: dict[str, Any],
) -> str:  # fmt: skip
    """TOML of a run.

    folder: of the run. init: of the model. data: of the clips. kind: of the model. last_tap: the second tapped block.
    stages: in their order. evaluate: changes of that table, which there is none of for None. changes: of the tables of
    stages; the keys of their `loop` and `optimizer` are changed one by one.
    """
    model = {"kind": kind, "taps": [0, last_tap], "heads": {"width": 8}, "sampling_steps": 2}
    lines = [f"{key} = {_value(value)}" for key, value in (
        ("folder", str(folder)), ("stages", list(stages)), ("init", str(init)), ("model", model)
    )]  # fmt: skip
    tables = [*dict.fromkeys((*STAGES, *stages)), *([] if evaluate is None else ["evaluate"])]
    for name in tables:
        table = {"data": str(data), **TABLES[name]}
        for key, value in (evaluate if name == "evaluate" else changes.get(name, {})).items():  # type: ignore[union-attr]
            table[key] = {**table[key], **value} if isinstance(value, dict) else value
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_value(inner)}' for key, inner in value.items())} }}"
    return json.dumps(value)
