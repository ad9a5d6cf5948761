"""The clips, run files and forked sessions of the tests of stages, and two nodes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import Nodes, why_not
from tests.cluster.training import Training
from tests.stages.conftest import clips, session, write_clips, write_run

__all__ = ["clips", "session", "write_clips", "write_run"]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes, where the machine can have them."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Nodes() as two:
        yield two


@pytest.fixture
def training(tmp_path: Path, write_run: Callable[..., Path], clips: Path) -> Training:
    """A run that was not started."""
    return Training(tmp_path / "run", write_run, clips)
