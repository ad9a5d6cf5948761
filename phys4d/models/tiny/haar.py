"""A codec that needs no training: the orthonormal Haar wavelet of space-time blocks, exactly invertible."""

import torch
from torch import Tensor, nn

from phys4d.models.interface import Codec, check_clip


def haar_matrix(size: int) -> Tensor:
    """The orthonormal Haar basis [size, size] in fp64, size a power of two; rows are basis functions, row 0
    constant."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"Haar size {size}: must be a power of two")
    basis = torch.ones(1, 1, dtype=torch.float64)
    while len(basis) < size:
        n = len(basis)
        basis = torch.cat(
            [
                torch.kron(basis, torch.tensor([[1.0, 1.0]])),
                torch.kron(torch.eye(n), torch.tensor([[1.0, -1.0]])),
            ]
        ) / (2**0.5)
    return basis


class HaarCodec(nn.Module, Codec):
    """Blocks of 4 frames x 4 x 4 pixels to 64 coefficients a colour; frame 0 alone is repeated into a block of its own.

    Orthonormal, so white noise in latents is white noise in pixels, and distances are equal.
    """

    channels = 192
    temporal_stride = 4
    chunked = ()
    spatial_stride = 4
    image_apart = False

    def __init__(self) -> None:
        super().__init__()
        line = haar_matrix(4)
        self.basis: Tensor
        basis = torch.einsum("at,by,cx->abctyx", line, line, line).reshape(64, 64)
        self.register_buffer("basis", basis.float(), persistent=False)

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 1 + 4k, H, W] in [-1, 1] -> [B, 192, 1 + k, H / 4, W / 4]; ValueError for other sizes."""
        check_clip(video, (4, 4, 4))
        return self.from_blocks(self._cut(torch.cat([video[:, :, :1].expand(-1, -1, 3, -1, -1), video], 2)))

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 192, 1 + k, h, w] -> [B, 3, 1 + 4k, 4h, 4w]; frame 0 is the mean of its block's four frames."""
        blocks = self.to_blocks(latents)
        b, t, h, w = blocks.shape[:4]
        video = blocks.view(b, t, h, w, 3, 4, 4, 4).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, 3, t * 4, h * 4, w * 4)
        return torch.cat([video[:, :, :4].mean(2, keepdim=True), video[:, :, 4:]], 2)

    def to_blocks(self, latents: Tensor) -> Tensor:
        """Latents [B, 192, T', h, w] -> pixels by block [B, T', h, w, 3, 64], a block's pixels in (frame, row,
        column)."""
        b, _, t, h, w = latents.shape
        return self._times(latents.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, 3, 64), self.basis)

    def from_blocks(self, blocks: Tensor) -> Tensor:
        """The inverse of `to_blocks`."""
        return self._times(blocks, self.basis.T).flatten(4).permute(0, 4, 1, 2, 3)

    @staticmethod
    def _times(blocks: Tensor, basis: Tensor) -> Tensor:
        """One product of all rows: torch would make one of every three, with the basis read again for each."""
        return (blocks.reshape(-1, 64) @ basis.to(blocks.dtype)).view(blocks.shape)

    @staticmethod
    def _cut(video: Tensor) -> Tensor:
        b, c, t, h, w = video.shape
        blocks = video.reshape(b, c, t // 4, 4, h // 4, 4, w // 4, 4).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return blocks.reshape(b, t // 4, h // 4, w // 4, c, 64)
