"""Chamfer distances of clouds that move."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phys4d.kernels.geometry.chamfer import Backend, chamfer
from phys4d.kernels.geometry.shapes import expect_shape


def chamfer_4d(
    x: Tensor | Sequence[Tensor],
    y: Tensor | Sequence[Tensor],
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    cap: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """4D Chamfer distance: the mean over frames of each frame's `chamfer` (the cap holds per frame).

    Args:
        x, y: [B, T, N, 3] and [B, T, M, 3] metres with lengths int64 [B, T]; or, for one clip (B = 1), a
            sequence of T clouds [N_t, 3] each, without lengths.
        squared, cap, backend: as in `chamfer`.

    Returns:
        [B].

    Raises:
        ValueError, RuntimeError: as in `chamfer`; a different number of clips or frames on the two sides.
    """
    x, x_lengths = _padded("x", x, x_lengths)
    y, y_lengths = _padded("y", y, y_lengths)
    expect_shape("y", y, (*x.shape[:2], "M", 3))
    per_frame = chamfer(
        x.flatten(0, 1),
        y.flatten(0, 1),
        x_lengths=None if x_lengths is None else x_lengths.flatten(),
        y_lengths=None if y_lengths is None else y_lengths.flatten(),
        squared=squared,
        cap=cap,
        backend=backend,
    )
    return per_frame.view(x.shape[:2]).mean(dim=1)


def _padded(name: str, cloud: Tensor | Sequence[Tensor], lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if isinstance(cloud, Tensor):
        expect_shape(name, cloud, ("B", "T", "N", 3))
        if lengths is not None:
            expect_shape(f"{name}_lengths", lengths, cloud.shape[:2])
        return cloud, lengths
    if lengths is not None:
        raise ValueError(f"{name}_lengths: expected none, since a sequence of clouds knows its own lengths")
    counts = torch.tensor([[len(frame) for frame in cloud]])
    return pad_sequence(list(cloud), batch_first=True).unsqueeze(0), counts
