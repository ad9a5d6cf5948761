"""What the heads of convolutions share: an embedding of places, and their initial weights."""

import torch
from torch import Tensor, nn

from phys4d.models.heads.modulation import TimestepModulation
from phys4d.models.heads.tokens import at_size
from phys4d.models.initial import draw_layers
from phys4d.models.interface import Grid


class ConvolvedHead(nn.Module):
    """A head that modulates each tapped layer by the noise level, and ends in convolutions that double the size.

    Attributes: modulations, one `TimestepModulation` a tap; place, [h', w', C], which says where in the image a token
    lies, as rotary positions do not, and depth depends on it; doubling, the convolutions.
    """

    modulations: nn.ModuleList
    place: nn.Parameter
    doubling: nn.ModuleList

    def lay_out(self, grid: Grid, channels: int) -> None:
        """Makes `place` for the tokens of a grid, zeros."""
        self.place = nn.Parameter(torch.zeros(*grid.tokens[1:], channels))

    def placed(self, tokens: Tensor) -> Tensor:
        """Tokens [..., h, w, C], each with its place added."""
        return tokens + at_size(self.place, *tokens.shape[-3:-1])

    @torch.no_grad()
    def draw(self, *key: int | str) -> None:
        """Initial weights: torch's defaults, a tenth of them in the last layer, keyed by (*key, name)."""
        draw_layers(self, *key)
        for modulation in self.modulations:
            assert isinstance(modulation, TimestepModulation)
            modulation.reset()
        for parameter in self.doubling[-1].parameters():
            parameter.mul_(0.1)
