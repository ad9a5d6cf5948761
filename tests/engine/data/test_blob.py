"""Array blobs: decoded values are within half a step, and damaged blobs are refused."""

import base64
import struct
import zlib

import blosc2
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.engine.data.clip.blob import QUANTISATION, Absolute, Relative, decode, encode, error_bound, header

shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)
exact_dtypes = st.sampled_from(
    ["bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
finite = st.floats(-1e6, 1e6, width=32)
ULP = 2.0**-23
DEPTH, MOTION = ({name: QUANTISATION[name]} for name in ("depth", "motion"))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), exact_dtypes.flatmap(lambda d: hnp.arrays(d, shapes)), max_size=4)
)
def test_unquantised_arrays_come_back_exactly(arrays: dict[str, np.ndarray]) -> None:
    back = decode(encode(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, shapes, elements=finite))
def test_linear16_errs_by_half_a_step_and_keeps_zero(array: np.ndarray) -> None:
    data = encode({"motion": array}, {"motion": Absolute((np.inf,) * len(array))})
    entry, back = header(data)["motion"], decode(data)["motion"]
    bound = error_bound(entry, array)
    assert entry["quantisation"]["kind"] == "linear16"
    assert back.dtype == np.float32 and back.shape == array.shape
    slack = np.abs(array).astype(np.float64) * ULP + 1e-9 * bound + 1e-45
    assert (np.abs(back.astype(np.float64) - array) <= bound + slack).all()
    assert (back[array == 0] == 0).all()


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, shapes, elements=st.just(0.0) | st.floats(0.0009765625, 100, width=32)))
def test_inverse16_errs_by_half_a_step_of_inverse_depth(depth: np.ndarray) -> None:
    data = encode({"depth": depth}, {"depth": Relative(np.inf)})
    entry, back = header(data)["depth"], decode(data)["depth"].astype(np.float64)
    assert entry["quantisation"]["kind"] == "inverse16"
    bound = entry["quantisation"]["step"] / 2
    seen = depth > 0
    assert (back[~seen] == 0).all() and (back[seen] > 0).all()
    inverse = 1 / depth[seen].astype(np.float64)
    assert (np.abs(1 / back[seen] - inverse) <= bound + inverse * ULP + 1e-9 * bound).all()
    assert (np.abs(back - depth) <= error_bound(entry, depth) * (1 + 1e-9) + depth * ULP).all()


# Ranges of depth: a room, from the lens to the horizon, and the whole range of float32.
depths = st.one_of(
    *(st.floats(np.float32(low).item(), np.float32(high).item(), width=32)
      for low, high in ((0.5, 12), (0.3, 300), (1e-5, 300), (1e-44, 3e38)))
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, shapes, elements=st.just(0.0) | depths))
def test_depth_errs_by_two_hundredths_of_a_percent_whatever_the_range(depth: np.ndarray) -> None:
    data = encode({"depth": depth}, DEPTH)
    entry, back = header(data)["depth"], decode(data)["depth"]
    assert back.dtype == np.float32 and back.shape == depth.shape
    wide = depth.astype(np.float64)
    off = np.abs(back - wide)
    assert (off <= error_bound(entry, depth) * (1 + 1e-9) + wide * ULP).all()
    assert (off <= 2e-4 * wide + wide * ULP).all()
    assert (back[depth == 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, (3, 2, 4), elements=st.one_of(*(st.floats(-m, m, width=32) for m in (1, 512, 2.0**99)))))
def test_motion_errs_by_the_stated_pixels_and_metres_whatever_the_range(motion: np.ndarray) -> None:
    data = encode({"motion": motion}, MOTION)
    entry, back = header(data)["motion"], decode(data)["motion"]
    wide = motion.astype(np.float64)
    off = np.abs(back - wide) - np.abs(wide) * ULP
    assert (off <= error_bound(entry, motion) * (1 + 1e-9) + 1e-45).all()
    assert (off <= np.array([1 / 256, 1 / 256, 1e-4])[:, None, None] + 1e-45).all()
    assert (back[motion == 0] == 0).all()


@pytest.mark.parametrize(
    ("nearest", "kind"),
    [(1.0, "inverse16"), (1e-2, "relative16"), (1e-3, "relative16"), (1e-5, "relative16"), (1e-20, "float32")],
)
def test_one_near_pixel_does_not_cost_the_others_their_accuracy(nearest: float, kind: str) -> None:
    depth = np.linspace(0.3, 8.0, 2000, dtype=np.float32).reshape(2, 20, 50)
    depth = np.maximum(depth, np.float32(nearest)) if nearest == 1.0 else depth
    depth[1, 3, 7] = nearest
    data = encode({"depth": depth}, DEPTH)
    entry, back = header(data)["depth"], decode(data)["depth"]
    assert entry.get("quantisation", {}).get("kind", entry["dtype"]) == kind
    assert (np.abs(back - depth) <= 2e-4 * depth).all()


def test_one_large_vector_does_not_cost_the_others_their_accuracy() -> None:
    motion = np.random.default_rng(0).normal(0, 0.1, (3, 4, 20, 30)).astype(np.float32)
    motion[2] *= 0.01
    small = encode({"motion": motion}, MOTION)
    for channel, outlier, kind in ((0, 1e4, "linear32"), (2, 50.0, "linear32"), (1, 1e30, "float32")):
        wild = motion.copy()
        wild[channel, 1, 2, 3] = outlier
        data = encode({"motion": wild}, MOTION)
        entry, back = header(data)["motion"], decode(data)["motion"]
        assert entry.get("quantisation", {}).get("kind", entry["dtype"]) == kind
        off = np.abs(back - wild).max(axis=(1, 2, 3))
        assert (off <= (1 / 256, 1 / 256, 1e-4)).all()
        assert kind == "float32" or len(data) < len(small)  # steps equal the stated error, not a fraction of the range


# Written before relative16 and linear32 were: depth as inverse16, motion as linear16.
OLD = (
    "UDRCTE9CMDGnAQAA/yDQUHsiYXJyYXlzIjpbeyJieXRlcyI6NDQsImNyYzMyIjozMjc1MTgyNTA2LCJkdHlwZSI6InVpbnQxNiIsIm5h"
    "bWUiOiJkZXB0aCIsIm9mZnNldCI6MCwicXVhbnRpc2F0aW9uIjp7ImtpbmQiOiJpbnZlcnNlMTYiLCJsb3ciOjAuMDgzMzMzMzMzMzMz"
    "MzMzMzMsInN0ZXAiOjIuOTI0NjkwNDkxNDQ5NzMxZS0wNX0sInNoYXBlIjpbMSwyLDNdfSx7ImJ5dGVzIjo2OCwiY3JjMzIiOjMwNjM2"
    "MTAyODQsImR0eXBlIjoidWludDE2IiwibmFtZSI6Im1vdGlvbiIsIm9mZnNldCI6NDQsInF1YW50aXNhdGlvbiI6eyJiYXNlIjpbMC4w"
    "LDMuMCwwLjBdLCJraW5kIjoibGluZWFyMTYiLCJzdGVwIjpbMC4wMDAxMjk3MDM2NjUyNzI5ODgwNywxLjUyNTkyNTQ3Mzc5OTg1OTZl"
    "LTA1LDAuMF0sInplcm8iOlsxMTU2NSwwLDBdfSwic2hhcGUiOlszLDEsMiwzXX1dfQUBBwIMAAAADAAAACwAAAACAAAAAAAFAAAAAAAA"
    "AAAAAAD///Wmb3plIQEABQGXAiQAAAAkAAAARAAAAAIAAAAAAAUAAAAAAAAAAAAtLbQ0AABpaS0t/v8AAP9//v8AAAAAAEAAAAAAAAAA"
    "AAAAAAA="
)
OLD_DEPTH = "000000000000003f88ff3f3f5500803fa0ff3f4000004041"
OLD_MOTION = (
    "0000000000f07f3ec000c0bf8000004000000000d0ffdf40000040400000604000008040000040400000404020005040"
    "000000000000000000000000000000000000000000000000"
)


def test_datasets_of_earlier_versions_are_read_as_ever() -> None:
    data = base64.b64decode(OLD)
    assert [entry.get("quantisation", {}).get("kind") for entry in header(data).values()] == ["inverse16", "linear16"]
    back = decode(data)
    assert back["depth"].tobytes().hex() == OLD_DEPTH and back["depth"].shape == (1, 2, 3)
    assert back["motion"].tobytes().hex() == OLD_MOTION and back["motion"].shape == (3, 1, 2, 3)


def test_a_quantisation_of_a_later_version_is_refused_by_name() -> None:
    data = encode({"depth": np.ones((1, 2), np.float32)}, DEPTH)
    start = 16 + struct.unpack_from("<I", data, 8)[0]
    raw = data[16:start].replace(b"inverse16", b"inverse17")
    with pytest.raises(ValueError, match="array 'depth': cannot read quantisation 'inverse17', only inverse16"):
        decode(struct.pack("<8sII", data[:8], len(raw), zlib.crc32(raw)) + raw + data[start:])


def test_the_stated_accuracy_at_a_rooms_scale() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 12.0, (5, 40, 40)).astype(np.float32)
    data = encode({"depth": depth}, DEPTH)
    back = decode(data)["depth"]
    assert header(data)["depth"]["quantisation"]["kind"] == "inverse16"
    assert (np.abs(back - depth) / depth).max() < 2e-4  # half a step of 1/0.5..1/12 over 65534, at 12 m


def test_the_bytes_depend_on_the_arrays_only() -> None:
    depth = np.linspace(1, 9, 6000, dtype=np.float32).reshape(2, 50, 60)
    strided = np.concatenate([depth, depth], axis=2)[:, :, :60]
    assert encode({"depth": depth}, DEPTH) == encode({"depth": strided}, DEPTH)


def test_only_what_is_asked_for_is_read() -> None:
    data = bytearray(encode({"a": np.arange(100), "b": np.ones(50)}))
    data[-1] ^= 1  # in b
    assert decode(bytes(data), ["a"])["a"].sum() == 4950
    with pytest.raises(ValueError, match="is corrupt: the checksum of array 'b'"):
        decode(bytes(data))
    with pytest.raises(ValueError, match="holds no array 'c', only a, b"):
        decode(bytes(data), ["a", "c"])


SOUND = encode({"a": np.arange(300, dtype=np.int32), "m": np.ones((2, 9), bool)})


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(SOUND) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_always_found(position: int, bit: int) -> None:
    damaged = bytearray(SOUND)
    damaged[position] ^= 1 << bit
    with pytest.raises(ValueError):
        decode(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, len(SOUND) - 1))
def test_a_cut_blob_is_always_found(length: int) -> None:
    with pytest.raises(ValueError, match=r"is truncated|is no array blob"):
        decode(SOUND[:length])


def test_what_cannot_be_stored_is_refused_by_name() -> None:
    faults = [
        ({"a": np.array([1.0, np.nan])}, {"a": Absolute((1, 1))}, "array 'a': holds 1 values that are not finite"),
        ({"a": np.array([1.0, 1e39])}, {"a": Relative(1)}, "array 'a': holds 1 values that are not finite"),
        ({"a": np.array([1.0, -2.0])}, {"a": Relative(1)}, "array 'a': a relative error needs values >= 0, got -2"),
        ({"a": np.array([1, 2])}, {"a": Absolute((1, 1))}, "array 'a': only float arrays"),
        ({"a": np.array([1.0, 2])}, {"a": Absolute((1,))}, "array 'a': 1 errors for 2 slices of the first axis"),
        ({"a": np.array([1j])}, {}, "array 'a': cannot store dtype complex128"),
        ({"a": np.array([object()])}, {}, "array 'a': cannot store dtype object"),
        ({"a": np.array([1.0])}, {"b": Relative(1)}, "quantise names an array that is not there: b"),
    ]
    for arrays, quantise, message in faults:
        with pytest.raises(ValueError, match=message):
            encode(arrays, quantise)


def test_decompression_leaves_the_interpreter_to_other_threads() -> None:
    assert blosc2.set_releasegil(True)  # the state before
