"""What can be refused of a dataset's clips before a run starts: all of them by what they say, some by their content."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from phys4d.bad_clips import MOST_BAD, most_bad, too_many
from phys4d.engine.data.clip.schema import REQUIRED
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.decoders.interface import VideoDecoder
from phys4d.engine.data.decoders.probe import probe
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.mixture import chosen

EVERY = 10_000
"""Clips of a dataset that are looked at without decoding; of more, the first and last of each shard. Each costs a few
reads, a few milliseconds on a network disk."""
WHOLE = 16
"""Clips of a dataset, spread evenly from the first to the last, that are read and decoded whole."""


@dataclass(frozen=True)
class DatasetUse:
    """A dataset that a run reads.

    data: its folder. arrays: that every clip must have. scenes: how many clips are read, from the first on; 0: all, in
    any order. static_camera: whether its cameras must stand still. affine_depth: whether its depth may be disparity up
    to scale and shift. skips: whether bad clips are skipped. max_bad,
    where: as in the table of the stage.
    """

    data: Location
    arrays: Collection[str]
    scenes: int = 0
    static_camera: bool = False
    skips: bool = False
    max_bad: float = MOST_BAD
    where: Mapping[str, Sequence[str | int | float]] = field(default_factory=dict)
    affine_depth: bool = False

    def ends_at(self, index: int) -> bool:
        """Whether a bad clip at this index ends the run."""
        return not self.skips and (not self.scenes or index < self.scenes)


def check_clips(
    uses: Mapping[str, DatasetUse],
    check_caption: Callable[[str], object],
    *,
    every: bool,
    decoder: VideoDecoder | None = None,
) -> None:
    """Looks at the clips of one dataset.

    uses: of this dataset, by key of the run file.
    check_caption: raises ValueError for a caption that the model does not take.
    every: read and decode every clip, instead of `WHOLE` of them.
    decoder: the one that the run file names, which must serve them; None if it names none.

    Raises UserError that names the first bad clip that ends the run; where bad clips are skipped, if more of those
    looked at are bad than may be (`bad_clips.most_bad`).
    """
    use = next(iter(uses.values()))
    dataset = ClipDataset(use.data, arrays={name for use in uses.values() for name in use.arrays})
    some = sorted({int(index) for use in uses.values() for index in chosen(dataset, use.where)})
    count = len(some)
    spread = range(count) if count <= WHOLE else [i * (count - 1) // (WHOLE - 1) for i in range(WHOLE)]
    whole = {some[i] for i in (range(count) if every else spread)}
    looked = some if every or count <= EVERY else sorted({*dataset.shard_edges(), *whole})
    bad: list[ClipFault | _Unusable] = []
    for index in looked:
        try:
            _check_clip(uses, dataset, index, check_caption, whole=index in whole)
            if decoder is not None and index in whole:
                _check_served(dataset, index, decoder)
        except (ClipFault, _Unusable) as fault:
            if any(use.ends_at(index) for use in uses.values()):
                raise
            bad.append(fault)
    share = min(use.max_bad for use in uses.values())
    if len(bad) > most_bad(count, share):
        raise too_many(use.data, len(bad), count, bad[0].brief, share)


class _Unusable(UserError):
    """A clip that is whole, but of no use to the run; `brief` is the message without the key of the run file."""

    def __init__(self, key: str, brief: str, advice: str = "") -> None:
        super().__init__(f"{key}: {brief}{advice}")
        self.brief = brief


def _check_clip(
    uses: Mapping[str, DatasetUse],
    dataset: ClipDataset,
    index: int,
    check_caption: Callable[[str], object],
    *,
    whole: bool,
) -> None:
    key, use = next(iter(uses.items()))
    still = next((key for key, use in uses.items() if use.static_camera), None)
    meta = dataset.probe(index)
    where = f"{use.data}: clip {dataset.row(index)['key']}"
    if missing := [name for name in REQUIRED if name not in meta]:
        raise _Unusable(key, f"{where}: json has no {', '.join(missing)}")
    try:
        check_caption(meta["caption"])
    except ValueError as error:
        raise _Unusable(key, f"{where}: {error}", ": shorten it") from None
    poses = meta.get("camera_to_world", [])
    if still is not None and any(pose != poses[0] for pose in poses):
        raise UserError(
            f"{still}: {where}: its camera moves, and the reward is of what changed since the first frame: "
            "simulate with a static camera"
        )
    if whole:
        dataset[index]


def _check_served(dataset: ClipDataset, index: int, decoder: VideoDecoder) -> None:
    """Raises UserError if the decoder does not serve a clip that is sound."""
    row = dataset.row(index)
    if (reason := decoder.refusal(probe(dataset.member(row, "mp4")))) is not None:
        raise dataset.unserved(row, decoder, reason)
