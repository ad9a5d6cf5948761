"""The Haar codec: exactly invertible, orthonormal, and it refuses what it cannot take."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.models.tiny.haar import HaarCodec, haar_matrix


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_basis_is_orthonormal(size: int) -> None:
    basis = haar_matrix(size)
    torch.testing.assert_close(basis @ basis.T, torch.eye(size, dtype=torch.float64))
    assert (basis[0] > 0).all() and torch.allclose(basis[1:].sum(1), torch.zeros(size - 1, dtype=torch.float64))


def test_size_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        haar_matrix(6)


@settings(deadline=None, max_examples=20)
@given(k=st.integers(0, 3), h=st.integers(1, 4), w=st.integers(1, 4), seed=st.integers(0, 99))
def test_decode_inverts_encode(k: int, h: int, w: int, seed: int) -> None:
    video = torch.rand(2, 3, 1 + 4 * k, 4 * h, 4 * w, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    latents = HaarCodec().encode(video)
    assert latents.shape == (2, 192, 1 + k, h, w)
    torch.testing.assert_close(HaarCodec().decode(latents), video, atol=2e-6, rtol=0)


def test_distances_are_kept_and_first_frame_stands_alone() -> None:
    codec = HaarCodec()
    a, b = torch.rand(2, 1, 3, 9, 8, 8)
    later = (codec.encode(a) - codec.encode(b))[:, :, 1:].square().sum()
    torch.testing.assert_close(later, (a - b)[:, :, 1:].square().sum())
    changed = torch.cat([a[:, :, :1], b[:, :, 1:]], 2)
    torch.testing.assert_close(codec.encode(changed)[:, :, 0], codec.encode(a)[:, :, 0])


def test_blocks_are_the_pixels() -> None:
    codec = HaarCodec()
    video = torch.rand(1, 3, 5, 8, 8)
    blocks = codec.to_blocks(codec.encode(video))
    torch.testing.assert_close(blocks[0, 1, 1, 0, 2].view(4, 4, 4), video[0, 2, 1:5, 4:8, 0:4])
    torch.testing.assert_close(codec.from_blocks(blocks), codec.encode(video))


@pytest.mark.parametrize(("shape", "what"), [((4, 8, 8), "4 frames"), ((5, 6, 8), "6x8 pixels")])
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, int, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        HaarCodec().encode(torch.zeros(1, 3, *shape))


def test_what_the_codec_says_of_itself() -> None:
    codec = HaarCodec()
    latents = codec.encode(torch.zeros(1, 3, 1 + codec.temporal_stride, codec.spatial_stride, codec.spatial_stride))
    assert latents.shape == (1, codec.channels, 2, 1, 1) and not codec.state_dict()
