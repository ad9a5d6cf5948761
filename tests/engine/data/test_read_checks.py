"""What the reader concludes without looking at every value: from codes and their rule, and from masks seen before."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.engine import json_text
from phys4d.engine.data import dataset
from phys4d.engine.data.clip import blob, clip_json, schema
from phys4d.engine.data.clip.quantisation import always_finite, check_rule, dequantise, least_sign
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.tools.verify import verify

SIZE = (5, 16, 24)
BITS = st.integers(0, 0x7F800000)
NUMBERS = st.floats(-1e4, 1e4) | st.floats(0, 1e40) | st.sampled_from([0.0, 1e-46, 1e-38, 1e38])
ROWS = 3


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["inverse16", "relative16", "linear16", "linear32"]))
    if kind == "relative16":
        return {"kind": kind, "low": draw(BITS | st.integers(0, 2)), "step": draw(BITS | st.integers(0, 99))}
    if kind == "inverse16":
        return {"kind": kind, "low": draw(NUMBERS), "step": draw(NUMBERS)}
    row = st.lists(NUMBERS, min_size=ROWS, max_size=ROWS)
    if kind == "linear32":
        return {"kind": kind, "step": draw(row)}
    zero = draw(st.lists(st.integers(0, 65535) | NUMBERS, min_size=ROWS, max_size=ROWS))
    return {"kind": kind, "base": draw(row), "zero": zero, "step": draw(row)}


@settings(max_examples=400, deadline=None)
@given(rules(), st.lists(st.sampled_from([0, 1, 2, 700, 65534, 65535]), min_size=ROWS, max_size=ROWS))
def test_no_value_is_below_what_its_code_and_rule_say(rule: dict[str, Any], codes: list[int]) -> None:
    wide = rule["kind"] == "linear32"
    code = np.array(codes, np.int32 if wide else np.uint16).reshape(ROWS, 1)
    check_rule("depth", {"dtype": code.dtype.name, "shape": [ROWS, 1]}, rule)
    with np.errstate(all="ignore"):
        value = dequantise(code, rule)
    sign = least_sign(code, rule)
    if always_finite(rule):
        assert sign == -1 or value.min() > 0 or (sign == 0 and value.min() == 0)
    assert sign < 1 or (value > 0).all()


def test_depth_as_it_is_written_needs_no_second_look() -> None:
    depth = np.linspace(0.5, 10, 60, dtype=np.float32).reshape(5, 3, 4)
    some = depth.copy()
    some[2, 1, 1] = 0
    wide = depth.copy()
    wide[0, 0, 0] = 1e-3
    for array, kind, sign in ((depth, "inverse16", 1), (some, "inverse16", 0), (wide, "relative16", 1)):
        signs, data = {"depth": -1, "other": -1}, blob.encode({"depth": array, "other": array}, {
            "depth": blob.QUANTISATION["depth"]
        })  # fmt: skip
        assert blob.header(data)["depth"]["quantisation"]["kind"] == kind
        blob.decode(data, signs=signs)
        assert signs == {"depth": sign, "other": -1}
    disparity = {"depth": np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 3, 4)}
    signs = {"depth": -1}
    blob.decode(blob.encode(disparity, blob.quantisation(disparity, schema.AFFINE)), signs=signs)
    assert signs == {"depth": 0}


@pytest.mark.parametrize("kind", ["inverse16", "relative16", "linear16"])
def test_codes_of_all_parts_are_looked_up_and_the_smallest_is_found(kind: str) -> None:
    shape = (3, 300, 700)  # more than one part in a slice, and a last one that is not full
    code = np.random.default_rng(0).integers(5, 65536, shape).astype(np.uint16)
    code[0, 0, 0], code[0, 0, 1], code[2, 299, 699] = 65535, 3, 4
    rule: dict[str, Any] = {"kind": kind, "low": 0.1, "step": 1e-5}
    rule = {"inverse16": rule, "relative16": rule | {"low": 0x3F000000, "step": 7}}.get(
        kind, {"kind": kind, "base": [0.0, 1.0, 2.0], "zero": [5, 0, 9], "step": [0.5, 0.25, 2.0]}
    )
    lowest = np.full(1, 65535, np.uint16)
    value = dequantise(code, rule, lowest)
    wide = code.astype(np.int64)
    if kind == "inverse16":
        expected = (1 / (0.1 + (wide - 1) * 1e-5)).astype(np.float32)
    elif kind == "relative16":
        expected = (0x3F000000 + (wide - 1) * 7).astype(np.int32).view(np.float32)
    else:
        rows = zip(rule["base"], rule["zero"], rule["step"], strict=True)
        expected = np.stack([base + (wide[i] - zero) * step for i, (base, zero, step) in enumerate(rows)])
    assert value.dtype == np.float32 and (value == expected.astype(np.float32)).all()
    assert lowest[0] == (65535 if kind == "linear16" else 3)


def quantised(depth: np.ndarray, valid: bool) -> bytes:
    arrays = {"depth": depth, "depth_valid": np.full(SIZE, valid), "motion": np.zeros((3, 4, 16, 24), np.float32)}
    return blob.encode(arrays, blob.QUANTISATION)


def with_rule(data: bytes, **rule: Any) -> bytes:
    """The blob with another rule for its first array, and the checksum of the header made right."""
    start = 16 + struct.unpack_from("<I", data, 8)[0]
    header = json.loads(data[16:start])
    header["arrays"][0]["quantisation"] = rule
    raw = json.dumps(header).encode()
    return struct.pack("<8sII", data[:8], len(raw), zlib.crc32(raw)) + raw + data[start:]


def test_the_reader_and_verify_refuse_quantised_depth_that_is_not_above_zero(
    write_dataset: Callable[[dict[int, dict[str, bytes]]], Path],
) -> None:
    holes = np.full(SIZE, 2, np.float32)
    holes[3, 4, 5] = 0
    seen, unseen = quantised(holes, True), quantised(holes, False)
    # Codes of which some are below the zero of a later or foreign rule, or decode to 0 though none of them is 0.
    below = with_rule(unseen, kind="linear16", base=[-1.0] * 5, zero=[0] * 5, step=[1.0] * 5)
    vanishing = with_rule(quantised(np.full(SIZE, 2, np.float32), True), kind="inverse16", low=1e60, step=0.0)
    folder = write_dataset({0: {"truth": seen}, 1: {"truth": unseen}, 2: {"truth": below}, 3: {"truth": vanishing}})
    clips = ClipDataset(folder)
    assert (clips[1].arrays["depth"] == holes).all()
    faults = {
        0: "array 'depth': 1 pixels of frame 3 are 0 m, but valid in 'depth_valid'",
        2: "array 'depth': 1 values are negative, the lowest -1 m",
        3: "array 'depth': 384 pixels of frame 0 are 0 m, but valid in 'depth_valid'",
    }
    for clip, fault in faults.items():
        with pytest.raises(ClipFault) as caught:
            clips[clip]
        assert caught.value.brief.endswith(f"clip clip-{clip}: truth {fault}")
    assert [line.split(": truth ")[1] for line in verify(folder)] == list(faults.values())


def mask_of(value: int, *, somewhere: int | None = None) -> bytes:
    """A blob with a mask of bytes of one value; with another one at one place."""
    mask = np.full((9, 64, 64), value, np.uint8)
    if somewhere is not None:
        mask[4, 5, 6] = somewhere
    return blob.encode({"visible": mask.view(bool)})


def test_a_mask_is_looked_at_unless_the_same_bytes_were_found_right() -> None:
    blob._masks.clear()
    for _ in range(2):
        for value in (0, 1):
            assert (blob.decode(mask_of(value))["visible"] == bool(value)).all()
        for wrong in (mask_of(2), mask_of(255), mask_of(1, somewhere=2), mask_of(0, somewhere=3)):
            with pytest.raises(ValueError, match="array 'visible' holds bytes that are neither true nor false"):
                blob.decode(wrong)
    assert len(blob._masks) == 2  # the two that are the same everywhere and right
    for side in range(200):
        blob.decode(blob.encode({"visible": np.ones((side, 7), bool)}))
    assert 0 < len(blob._masks) <= blob._MASKS


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("place", range(16))
def test_a_matrix_that_all_frames_share_holds_finite_numbers_in_every_place(wrong: Any, place: int) -> None:
    pose = [[float(i == j) for j in range(4)] for i in range(4)]
    pose[place // 4][place % 4] = wrong
    with pytest.raises(ValueError, match="camera_to_world: expected "):
        schema.check_meta({"camera_to_world": [pose] * 5}, SIZE)


def test_escapes_and_brackets_in_texts_are_no_depth() -> None:
    for text in ("[" * 99, 'a "[" ' * 40, "\\" * 3 + "[" * 40, "é" + "{" * 40, '\\"' + "[" * 40):
        for ascii_only in (True, False):
            data = json.dumps({"caption": text, "more": [[1]]}, ensure_ascii=ascii_only).encode()
            assert json_text.loads(data)["caption"] == text


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checks that are made from here on, in order."""
    made: list[str] = []

    def note(owner: Any, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (made.append(name), real(*given))[1])

    for name in ("check_header", "check_values", "check_depth"):
        note(schema, name)
    for name in ("_check_entry", "_check_chunk", "_check_bools", "least_sign"):
        note(blob, name)
    for owner, name in ((clip_json, "check_meta"), (json_text, "_depth"), (dataset, "is_whole")):
        note(owner, name)
    return made


def test_a_clip_that_passed_all_checks_is_compared_with_its_digests_alone(
    write_dataset: Callable[[dict[int, dict[str, bytes]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset({})
    clips, made = ClipDataset(folder), counted(monkeypatch)
    first = clips[1]
    assert len(set(made)) == 10
    made.clear()
    later = clips[1]
    assert made == ["is_whole"] * 3
    assert later.meta == first.meta and later.arrays.keys() == first.arrays.keys() != set()
    assert all(np.array_equal(array, later.arrays[name]) for name, array in first.arrays.items())
    made.clear()
    clips[2]  # another one
    ClipDataset(folder)[1]
    assert made.count("check_header") == made.count("check_meta") == 2
    for name, member in clips.row(1)["members"].items():  # a bit that flips between two epochs
        shard = folder / clips.row(1)["shard"]
        data = shard.read_bytes()
        at = member["offset"] + member["size"] // 2
        shard.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(ClipFault, match=f"clip clip-1: {name} differs from its digest"):
            clips[1]
        shard.write_bytes(data)
    assert clips[1].meta == first.meta


@pytest.mark.parametrize("member", ["truth", "json"])
def test_a_clip_that_is_refused_is_refused_again(
    member: str, write_dataset: Callable[[dict[int, dict[str, bytes]]], Path]
) -> None:
    holes = np.full(SIZE, 2, np.float32)
    holes[3, 4, 5] = 0
    bad = {"truth": quantised(holes, True), "json": b'{"caption": 3}'}
    clips = ClipDataset(write_dataset({0: {member: bad[member]}}))
    for _ in range(3):
        with pytest.raises(ClipFault, match=f"clip clip-0: {member} "):
            clips[0]


def test_verify_compares_the_checksums_that_a_reader_of_whole_members_leaves_out(
    write_dataset: Callable[[dict[int, dict[str, bytes]]], Path],
) -> None:
    """As of a writer whose memory failed between packing the arrays and computing the SHA-256."""
    data = bytearray(quantised(np.full(SIZE, 2, np.float32), True))
    start = 16 + struct.unpack_from("<I", data, 8)[0]
    header = json.loads(data[16:start])
    header["arrays"][0]["crc32"] ^= 1
    raw = json.dumps(header).encode()
    wrong = struct.pack("<8sII", data[:8], len(raw), zlib.crc32(raw)) + raw + data[start:]
    folder = write_dataset({0: {"truth": wrong}})
    assert ClipDataset(folder)[0].arrays.keys() == {"depth", "depth_valid", "motion"}
    (problem,) = verify(folder)
    assert problem.endswith("clip clip-0: truth is corrupt: the checksum of array 'depth' does not match")
