"""Ridge regression in closed form, from sums over tokens that are added up clip by clip."""

import torch
from torch import Tensor


class Ridge:
    """Linear regression with an intercept that is not penalised.

    Minimises the mean over tokens of |y - w x - b|^2 plus strength * v * |w|^2, where v is the mean variance of the
    features: `strength` has no unit, and means the same for any number of tokens and scale of features. Sums are held
    in float64; products of one clip are in float32. Equal inputs in equal order give the same bits.

    features, outputs: numbers of a token. device: of the sums.
    """

    def __init__(self, features: int, outputs: int, device: torch.device) -> None:
        self.count = 0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._x, self._y = zeros(features), zeros(outputs)
        self._xx, self._xy = zeros(features, features), zeros(features, outputs)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds tokens: features x [N, features], outputs y [N, outputs], float32."""
        self.count += len(x)
        self._x += x.sum(0, dtype=torch.float64)
        self._y += y.sum(0, dtype=torch.float64)
        self._xx += x.mT @ x
        self._xy += x.mT @ y

    @property
    def mean(self) -> Tensor:
        """The mean of the outputs, float32 [outputs]: the best constant. ValueError without a token."""
        self._check()
        return (self._y / self.count).float()

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weights [features, outputs] and intercept [outputs], float32. ValueError without a token.

        strength: of the penalty, above 0.
        """
        self._check()
        x, y = self._x / self.count, self._y / self.count
        covariance = self._xx / self.count - x[:, None] * x
        penalty = strength * covariance.diagonal().mean().clamp_min(1e-12)
        covariance.diagonal().add_(penalty)
        weights = torch.linalg.solve(covariance, self._xy / self.count - x[:, None] * y)
        return weights.float(), (y - x @ weights).float()

    def _check(self) -> None:
        if self.count == 0:
            raise ValueError("no token has a label")
