"""Clips of which no sample is usable: the run stops and keeps the others, or leaves them out and counts them."""

from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.simulation import generate
from phys4d.simulation.distributed import ProcessRank
from phys4d.simulation.generate import SimulateConfig, simulate
from phys4d.simulation.rejection_sampling import NoUsableScene, SampledScene

CONFIG = SimulateConfig(
    families=("topple", "collision", "spin"), clips=5, size=(16, 16), frames=17, seed=6, looks="plain"
)
SKIP = CONFIG.model_copy(update={"on_refused": "skip"})


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Families that cannot be drawn; clips are made in this process."""
    families: set[str] = {"collision"}
    usual = generate.sample_scene

    def sample(config: SimulateConfig, index: int) -> SampledScene:
        if config.family(index) in families:
            raise NoUsableScene(f"none of 100 scenes of family {config.family(index)} was usable: it stays (100)")
        return usual(config, index)

    def in_order(config: SimulateConfig, workers: int, indices: Sequence[int]) -> Generator[dict[str, bytes]]:
        yield from (generate._clip_or_refusal(config, index) for index in indices)

    monkeypatch.setattr(generate, "sample_scene", sample)
    monkeypatch.setattr(generate, "_in_order", in_order)
    return families


def numbers(folder: Path) -> list[int]:
    """Numbers of the clips of a dataset."""
    clips = ClipDataset(folder)
    return [clips[index].meta["provenance"]["index"] for index in range(len(clips))]


def test_refused_clips_are_left_out_named_and_counted(refusing: set[str], tmp_path: Path) -> None:
    summary = simulate(SKIP, tmp_path / "clips", workers=1)
    assert numbers(tmp_path / "clips") == [0, 2, 3] and verify(tmp_path / "clips") == []
    assert summary.lines()[-1] == (
        "collision: 2 clips left out: none of 100 scenes of family collision was usable: it stays (100)"
    )


def test_a_run_that_stops_keeps_its_clips_and_can_go_on_without_the_refused_ones(
    refusing: set[str], tmp_path: Path
) -> None:
    with pytest.raises(NoUsableScene, match="family collision"):
        simulate(CONFIG, tmp_path / "clips", workers=1)
    made: list[int] = []
    usual = generate._clip_or_refusal

    def counted(config: SimulateConfig, index: int) -> dict[str, bytes]:
        made.append(index)
        return usual(config, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_clip_or_refusal", counted)
        simulate(SKIP, tmp_path / "clips", workers=1)
    assert made == [1, 2, 3, 4] and numbers(tmp_path / "clips") == [0, 2, 3]


def test_the_others_have_the_same_bytes_as_without_a_refusal(refusing: set[str], tmp_path: Path) -> None:
    simulate(SKIP, tmp_path / "some", workers=1)
    refusing.clear()
    simulate(SKIP, tmp_path / "all", workers=1)
    some, every = ClipDataset(tmp_path / "some"), ClipDataset(tmp_path / "all")
    for mine, index in enumerate([0, 2, 3]):
        assert some[mine].meta == every[index].meta
        assert (some[mine].video == every[index].video).all()


def test_no_clip_at_all_is_an_error(refusing: set[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clip was usable: collision: 1 clip left out"):
        simulate(SKIP.model_copy(update={"families": ("collision",), "clips": 1}), tmp_path / "none", workers=1)


def test_a_run_goes_on_after_its_clips_and_tries_again_what_was_left_out(refusing: set[str], tmp_path: Path) -> None:
    made: list[int] = []
    usual = generate._clip_or_refusal

    def ended(config: SimulateConfig, index: int) -> dict[str, bytes]:
        made.append(index)
        if index == 3 and made.count(3) == 1:
            raise KeyboardInterrupt
        return usual(config, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_clip_or_refusal", ended)
        with pytest.raises(KeyboardInterrupt):
            simulate(SKIP, tmp_path / "clips", workers=1)
        simulate(SKIP, tmp_path / "clips", workers=1)
    assert made == [0, 1, 2, 3, 1, 3, 4] and numbers(tmp_path / "clips") == [0, 2, 3]


def test_ranks_leave_out_what_they_cannot_draw_and_rank_0_counts_it(refusing: set[str], tmp_path: Path) -> None:
    """Clips 1 and 4 are refused: rank 1 of 2 makes 1 and 3, rank 0 the others."""
    for rank in (1, 0):
        summary = simulate(SKIP, tmp_path / "clips", workers=1, process_rank=ProcessRank(rank, 2))
    assert numbers(tmp_path / "clips") == [0, 2, 3] and verify(tmp_path / "clips") == []
    assert summary.refused == {"collision": 2}
