"""Array blobs: what goes in comes out within half a step, and what is damaged never comes out."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.engine.data.blob import decode, encode, error_bound, header

shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)
exact_dtypes = st.sampled_from(
    ["bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
finite = st.floats(-1e6, 1e6, width=32)
ULP = 2.0**-23


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
    data = encode({"motion": array}, {"motion": "linear16"})
    back, bound = decode(data)["motion"], error_bound(header(data)["motion"])
    assert back.dtype == np.float32 and back.shape == array.shape
    slack = np.abs(array).astype(np.float64) * ULP + 1e-9 * bound + 1e-45
    assert (np.abs(back.astype(np.float64) - array) <= bound + slack).all()
    assert (back[array == 0] == 0).all()


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, shapes, elements=st.just(0.0) | st.floats(0.0009765625, 1e4, width=32)))
def test_inverse16_errs_by_half_a_step_of_inverse_depth(depth: np.ndarray) -> None:
    data = encode({"depth": depth}, {"depth": "inverse16"})
    back, bound = decode(data)["depth"].astype(np.float64), error_bound(header(data)["depth"])
    seen = depth > 0
    assert (back[~seen] == 0).all() and (back[seen] > 0).all()
    inverse = 1 / depth[seen].astype(np.float64)
    assert (np.abs(1 / back[seen] - inverse) <= bound + inverse * ULP + 1e-9 * bound).all()


def test_the_stated_accuracy_at_a_rooms_scale() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 12.0, (5, 40, 40)).astype(np.float32)
    back = decode(encode({"depth": depth}, {"depth": "inverse16"}))["depth"]
    assert (np.abs(back - depth) / depth).max() < 2e-4  # half a step of 1/0.5..1/12 over 65534, at 12 m


def test_the_bytes_depend_on_the_arrays_only() -> None:
    depth = np.linspace(1, 9, 6000, dtype=np.float32).reshape(2, 50, 60)
    strided = np.concatenate([depth, depth], axis=2)[:, :, :60]
    assert encode({"depth": depth}, {"depth": "inverse16"}) == encode(
        {"depth": strided}, {"depth": "inverse16"}
    )


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
        ({"a": np.array([1.0, np.nan])}, {"a": "linear16"}, "array 'a': holds 1 values that are not finite"),
        ({"a": np.array([1.0, -2.0])}, {"a": "inverse16"}, "array 'a': inverse16 needs values >= 0, got -2"),
        ({"a": np.array([1, 2])}, {"a": "linear16"}, "array 'a': only float arrays"),
        ({"a": np.array([1j])}, {}, "array 'a': cannot store dtype complex128"),
        ({"a": np.array([object()])}, {}, "array 'a': cannot store dtype object"),
        ({"a": np.array([1.0])}, {"b": "linear16"}, "quantise names an array that is not there: b"),
    ]
    for arrays, quantise, message in faults:
        with pytest.raises(ValueError, match=message):
            encode(arrays, quantise)  # type: ignore[arg-type]
