"""Small folders of every published kind of backbone, for tests that hold one thing for all of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.cogvideox.conftest import write_cogvideox
from tests.models.wan21.conftest import write_wan21

__all__ = ["KINDS", "write_cogvideox", "write_published", "write_wan21"]  # what a test module imports: all fixtures
KINDS = ("wan", "wan21-text", "wan21-image", "cogvideox-text", "cogvideox-image", "opensora")


@pytest.fixture(scope="session")
def write_published(
    write_released: Callable[..., Path], write_cogvideox: Callable[..., Path], write_wan21: Callable[..., Path],
    write_opensora: Callable[[Path], Path],
) -> Callable[[str, Path], Path]:  # fmt: skip
    """Writes the folder of one of `KINDS`, which takes clips of 9 frames of 32 x 32 pixels."""

    def write(kind: str, root: Path) -> Path:
        name, _, conditioned = kind.partition("-")
        if name in ("wan21", "cogvideox"):
            return {"wan21": write_wan21, "cogvideox": write_cogvideox}[name](root, image=conditioned == "image")
        return {"wan": write_released, "opensora": write_opensora}[name](root)

    return write
