"""Tensors as kernels of images read them."""

from torch import Tensor


def expect_pixels(name: str, x: Tensor) -> None:
    """Raises ValueError unless the images of x [..., H, W] have fewer than 2^31 pixels: kernels count them in int32."""
    if x.shape[-2] * x.shape[-1] >= 1 << 31:
        raise ValueError(f"{name}: expected frames of less than 2^31 pixels, got {list(x.shape[-2:])}")


def with_planes(x: Tensor) -> Tensor:
    """x [..., H, W] with contiguous images: itself, or a copy."""
    fits = x.stride(-1) == 1 and x.stride(-2) == x.shape[-1]
    return x if fits else x.contiguous()
