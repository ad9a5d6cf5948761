"""`data` of a stage's table: one dataset or several, their caches, the largest clip, and the digest of all of it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from phys4d.engine.errors import UserError
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.stages.backbone import BackboneConfig
from phys4d.stages.data import DataPart, data_of, identity, largest, with_caches

REST: dict[str, Any] = {"optimizer": OptimizerConfig(learning_rate=1e-3), "loop": LoopConfig(steps=1)}


def table(data: Any, **rest: Any) -> Any:
    return BackboneConfig(data=data, **rest, **REST)


def test_a_folder_is_the_only_part_and_is_written_as_a_folder(tmp_path: Path) -> None:
    config = table(str(tmp_path))
    assert config.data == (DataPart(folder=tmp_path),) and str(config.data[0]) == str(tmp_path)
    assert config.model_dump()["data"] == str(tmp_path)
    parts = table(({"folder": str(tmp_path), "weight": 2.0}, {"folder": str(tmp_path / "b"), "weight": 1.5}))
    assert [(part.folder, part.weight) for part in parts.data] == [(tmp_path, 2.0), (tmp_path / "b", 1.5)]
    assert [part["weight"] for part in parts.model_dump()["data"]] == [2.0, 1.5]
    (chosen,) = table(({"folder": str(tmp_path), "where": {"frames": (49,)}},)).model_dump()["data"]
    assert chosen["where"] == {"frames": (49,)}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((), "expected a folder or an array of datasets"),
        (({"folder": "a", "weight": 1.0}, {"folder": "b"}), "weight: expected of all datasets, or of none"),
        (({"folder": "a", "weight": 0.0},), "weight"), (({"folder": "a", "weight": float("inf")},), "weight"),
        (({"folder": "a", "weight": float("nan")},), "weight"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together_are_refused(parts: tuple[dict[str, Any], ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        table(parts)


def test_the_cache_of_the_table_is_that_of_its_one_dataset(tmp_path: Path) -> None:
    a, b = DataPart(folder=tmp_path / "a"), DataPart(folder=tmp_path / "b", latents=tmp_path / "own")
    given = SimpleNamespace(data=(a,), latents=tmp_path / "cache")
    assert data_of(given) == (a.model_copy(update={"latents": tmp_path / "cache"}),)
    assert data_of(SimpleNamespace(data=tmp_path / "a", latents=None)) == (a,)
    assert data_of(SimpleNamespace(data=(a, b), latents=None)) == (a, b)
    with pytest.raises(UserError, match=r"latents: .*cache: is of one dataset, data has 2: name it in each of them"):
        data_of(SimpleNamespace(data=(a, b), latents=tmp_path / "cache"))


def test_parts_of_a_mixture_have_their_weight_columns_and_cache(tmp_path: Path) -> None:
    parts = [DataPart(folder=tmp_path / name, weight=w, where={"frames": (w,)}) for name, w in (("a", 1), ("b", 2))]
    cache: Any = object()
    plain, cached = with_caches(parts), with_caches(parts, [None, cache])
    assert [(p.folder, p.weight, p.where, p.cache) for p in cached] == [
        (tmp_path / "a", 1, {"frames": (1,)}, None), (tmp_path / "b", 2, {"frames": (2,)}, cache)
    ]  # fmt: skip
    assert [p.cache for p in plain] == [None, None]


def test_the_largest_clip_is_that_with_the_most_pixels(write_clips: Callable[..., Path], tmp_path: Path) -> None:
    """5 x 32 x 32 = 5120 beside 5 x 16 x 16, 2 x 32 x 32 = 2048 and 5 x 20 x 32 = 3200."""
    small = write_clips(tmp_path / "small", count=1)
    large = write_clips(tmp_path / "large", count=3, scale=2, crop={0: (2, 32), 1: (5, 20)})
    assert largest((DataPart(folder=small), DataPart(folder=large))) == (5, 32, 32)
    assert largest((DataPart(folder=small),)) == (5, 16, 16)
    cut = (DataPart(folder=large, where={"frames": (2,)}), DataPart(folder=large, where={"height": (20,)}))
    assert largest(cut) == (5, 20, 32)


def test_the_digest_changes_with_clips_weights_and_columns_and_not_with_caches(
    write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = write_clips(tmp_path / "a", count=1), write_clips(tmp_path / "b", count=2)
    index = {f: hashlib.sha256((f / "index.parquet").read_bytes()).hexdigest() for f in (a, b)}
    assert identity((DataPart(folder=a),)) == index[a] == identity((DataPart(folder=a, latents=tmp_path),))
    where = {"weight": None, "where": {"frames": [5]}}
    text = json.dumps([[index[a]], [where]], sort_keys=True)  # written down in every run folder
    assert identity((DataPart(folder=a, where={"frames": (5,)}),)) == hashlib.sha256(text.encode()).hexdigest()
    columns: list[tuple[str, tuple[int, ...]]] = [("frames", (5,)), ("height", (16, 32))]
    first, last = (DataPart(folder=a, where=dict(some)) for some in (columns, reversed(columns)))
    assert identity((first,)) == identity((last,))  # in whatever order columns are named
    pairs = ((u, v) for u in (1, 2) for v in (1, 2))
    both = {(u, v): identity((DataPart(folder=a, weight=u), DataPart(folder=b, weight=v))) for u, v in pairs}
    assert len(set(both.values())) == 4
    text = json.dumps([[index[a], index[b]], [{"weight": w, "where": {}} for w in (1.0, 2.0)]], sort_keys=True)
    assert both[1, 2] == hashlib.sha256(text.encode()).hexdigest()
