"""The linear head."""

import math

from torch import Tensor, nn

from phys4d.models.heads.modulation import TimestepModulation
from phys4d.models.heads.tokens import latent_frames, rows_of
from phys4d.models.initial import draw_uniform
from phys4d.models.interface import Grid


class LinearHead(nn.Module):
    """One linear map from the last tapped tokens to all pixels of each token (the paper authors' released head)."""

    def __init__(self, hidden: int, taps: int, latents: int, channels: int, grid: Grid, width: int) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.modulation = TimestepModulation(hidden)
        self.project = nn.Linear(hidden, channels * math.prod(grid.token_stride))

    def draw(self, *key: int | str) -> None:
        """Initial weights: Xavier's uniform distribution with gain 0.01, no bias, keyed by (*key, name)."""
        bound = 0.01 * math.sqrt(6 / sum(self.project.weight.shape))
        draw_uniform(self.project.weight, bound, *key, "project.weight")
        nn.init.zeros_(self.project.bias)

    def forward(
        self, hidden: tuple[Tensor, ...], noisy: Tensor, sigma: Tensor, own: slice | None = None
    ) -> Tensor:
        """Tapped tokens, noisy latents (of which the sizes are used), sigma [B], latent frames, as in `ConvHead` ->
        [B, T, channels, H, W]."""
        st, sh, sw = self.grid.token_stride
        h, w = rows_of(hidden, noisy)
        tokens = latent_frames(hidden[-1], noisy.shape[2], own).flatten(1, 2)
        y = self.project(self.modulation(tokens, sigma)).view(len(sigma), -1, h, w, st, self.channels, sh, sw)
        y = y.permute(0, 1, 4, 5, 2, 6, 3, 7).reshape(len(y), -1, self.channels, h * sh, w * sw)
        return y[:, 0 if own is not None and own.start else st - 1 :]
