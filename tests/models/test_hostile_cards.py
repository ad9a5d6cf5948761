"""Cards, configurations and headers of models that ask for too much, or are damaged: one line, at once."""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phys4d.engine.errors import UserError
from phys4d.models.card import base_of, read_card
from phys4d.models.headers import read_header
from phys4d.models.wan.published import check_transformer

MODEL = {
    "kind": "tiny", "width": 32, "layers": 2, "taps": [0, 1], "heads": {"width": 8}, "probe_sigma": 0.05,
    "sampling_steps": 2, "sampling_shift": 3.0, "attention": "auto",
}  # fmt: skip
CARD = {
    "format": 1, "stage": "pretrain", "model": MODEL, "frames": 5, "height": 16, "width": 16, "adapters": ["finetune"],
    "base": None, "provenance": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"model": MODEL | {"width": 1_000_000}}, "model.width: Input should be less than or equal to 16384"),
        ({"model": MODEL | {"layers": 10**9}}, "model.layers: Input should be less than or equal to 512"),
        ({"model": MODEL | {"heads": {"width": 10**7}}}, "model.heads.width: Input should be less than or equal"),
        ({"model": MODEL | {"taps": [0] * 600}}, "model.taps: Tuple should have at most 512 items"),
        ({"frames": 10**9}, "frames: Input should be less than or equal to 100000"),
        ({"height": 0}, "height: Input should be greater than or equal to 1"),
        ({"adapters": ["../../elsewhere"]}, "adapters.0: String should match pattern"),
        ({"adapters": ["a"] * 17}, "adapters: Tuple should have at most 16 items"),
        ({"provenance": {"a" * (8 << 20): 1}}, "has more than 8388608 bytes, the most that are read"),
    ],
)
def test_a_card_that_asks_for_too_much(tmp_path: Path, changed: dict[str, Any], fault: str) -> None:
    (tmp_path / "phys4d.json").write_text(json.dumps(CARD | changed))
    with pytest.raises(UserError, match=f"phys4d.json: {fault}"):
        read_card(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"a":' * 900 + b"1" + b"}" * 900])
def test_a_card_that_is_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "phys4d.json").write_bytes(data)
    with pytest.raises(UserError, match=r"phys4d\.json: "):
        read_card(tmp_path)


@pytest.mark.parametrize("base", ["\0", "x" * 100_000])
def test_a_base_that_is_no_path(tmp_path: Path, base: str) -> None:
    (tmp_path / "phys4d.json").write_text(json.dumps(CARD | {"base": base}))
    with pytest.raises(UserError, match=r"phys4d\.json: base: is no path"):
        base_of(read_card(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"num_layers": 10**7}, "num_layers: 10000000, at most 512 is taken"),
        ({"ffn_dim": 10**12}, "ffn_dim: 100000000000, at most 4194304 is taken"),
        ({"patch_size": [1, 2, 10**20]}, "patch_size: 100000000000, at most 4194304 is taken"),
        ({"text_dim": -(10**4000)}, "text_dim: -10000000000, at most 4194304 is taken"),
    ],
)
def test_a_configuration_that_asks_for_too_much(
    released: Path, tmp_path: Path, changed: dict[str, Any], fault: str
) -> None:
    config = json.loads((released / "transformer" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    began = time.process_time()
    with pytest.raises(UserError, match=f"config.json: {fault}"):
        check_transformer(tmp_path)
    assert time.process_time() - began < 5


def tensors(**changed: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return json.dumps({"a": entry | changed}).encode()


@pytest.mark.parametrize(
    "make",
    [
        lambda: tensors(shape=[10**30, 10**30]),
        lambda: tensors(shape="22"),
        lambda: tensors(data_offsets=[0, 1e308]),
        lambda: tensors(data_offsets=[0, 10**40]),
        lambda: tensors(dtype=[]),
        lambda: b"[" * 50_000,
        lambda: b'{"a":' * 900 + b"1" + b"}" * 900,
        lambda: b"[1]",
    ],
)
def test_a_header_that_lies(tmp_path: Path, make: Callable[[], bytes]) -> None:
    raw = make()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    with pytest.raises(UserError, match=r"w\.safetensors: (is no safetensors file|is \d+ bytes long)"):
        read_header(tmp_path / "w.safetensors")
