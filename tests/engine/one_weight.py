"""What objectives of tests on one weight share."""

from typing import Any

from torch import nn


class OneWeight:
    """A single trained weight, at first 1."""

    def __init__(self) -> None:
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.net.weight)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters()), "lr_scale": 1.0}]
