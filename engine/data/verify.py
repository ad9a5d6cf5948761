"""Reads a whole dataset and says what is wrong with it."""

from phys4d.engine.data import schema
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.decoders.probe import frame_count
from phys4d.engine.data.location import Location
from phys4d.engine.faults import reading
from phys4d.engine.progress import progress


def verify(folder: Location) -> list[str]:
    """Reads a whole dataset and returns one line for each problem, with shard, key and member; [] if it is sound.

    Checked: size and sha256 of every member; that each mp4 holds and decodes to the frames and size in the index; that
        arrays and json are as `schema` says, with all required fields. Raises UserError if the index cannot be used,
        and MachineFault if the machine failed; then the dataset may be sound.
    """
    dataset = ClipDataset(folder, required=schema.REQUIRED)
    problems: list[str] = []
    with progress("verify", total=len(dataset), unit="clips") as bar:
        for index in range(len(dataset)):
            problems += _verify_clip(dataset, index)
            bar.advance(1, problems=len(problems))
    return problems


def _verify_clip(dataset: ClipDataset, index: int) -> list[str]:
    row = dataset.row(index)
    where = f"{row['shard']}: clip {row['key']}:"
    problems: list[str] = []
    for name in row["members"]:
        try:
            data = dataset.member(row, name)
        except ClipFault as error:
            problems.append(error.brief)
            continue
        if name == "mp4":
            try:
                with reading(dataset.folder / row["shard"]):
                    count = frame_count(data)
                if count != row["frames"]:
                    problems.append(f"{where} mp4 holds {count} frames, the index says {row['frames']}")
            except ValueError as error:
                problems.append(f"{where} mp4 {error}")
    if not problems:
        try:
            dataset[index]
        except ClipFault as error:
            problems.append(error.brief)
    return problems
