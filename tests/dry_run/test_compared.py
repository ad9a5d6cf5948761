"""Dry runs side by side: a row for each stage, with what was changed in the recipe."""

from typing import Any

import pytest

from phys4d.benchmarks import results
from phys4d.dry_run.tables import compared

GIB = 1 << 30


def test_a_row_by_hand() -> None:
    command = "python -m phys4d train r.toml --set cache=off --dry-run --model m --set stages=[] --set parallel.shard=1"
    stage: dict[str, Any] = {"stage": "finetune", "total": 2.5 * GIB, "available": 2 * GIB, "fits": False, "seconds": 3}
    found = compared({"provenance": {"command": command}, "clip": "5x8x8", "stages": [stage]})
    assert found.splitlines()[-1] == (
        "| m | 5x8x8 | `cache=off` `parallel.shard=1` | finetune | 2.5 | 2.0, does not fit | 3.0 |"
    )


@pytest.mark.parametrize("name", ["wan2.2-5b-full-1", "cogvideox-5b-1", "opensora-1.2-1"])
def test_one_gpu_of_80_gb_fine_tunes_49_frames_with_full_checkpointing_and_all_encoders(name: str) -> None:
    result = results.committed(f"dry-run/{name}.json")
    (stage,) = (stage for stage in result["stages"] if stage["stage"] == "finetune")
    assert result["world_size"] == 1 and result["clip"].startswith("49x480x") and stage["fits"]
    assert stage["memory"]["codec"] > 0 and stage["memory"]["text encoder"] > 8 * GIB
    assert not result["provenance"]["git_revision"].endswith("-dirty")
