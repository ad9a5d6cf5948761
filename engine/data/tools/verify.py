"""Reads a whole dataset and says what is wrong with it."""

import hashlib

from phys4d.engine.data.clip import blob, schema
from phys4d.engine.data.dataset import ClipDataset, ClipFault
from phys4d.engine.data.decoders.probe import frame_count
from phys4d.engine.data.files.columns import texts_of
from phys4d.engine.data.stream import stream
from phys4d.engine.data.tools.read_once import ReadOnce
from phys4d.engine.errors import UserError
from phys4d.engine.faults import reading
from phys4d.engine.location import Location
from phys4d.engine.progress import progress


def verify(folder: Location, *, workers: int = 1) -> list[str]:
    """Reads a whole dataset and returns one line for each problem, with shard, key and member; [] if it is sound.

    Checked: size and both digests of every member, and CRC-32 of arrays; that each mp4 holds and decodes to the frames
        and size in the index; that arrays and json are as `schema` says, with all required fields; that texts in the
        index are those of the json.

    folder: of the dataset.
    workers: threads, each of which holds one clip in memory; the lines are in the order of the clips.

    Raises UserError if the index cannot be used, and MachineFault if the machine failed; then the dataset may be sound.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    dataset = ReadOnce(folder, required=schema.REQUIRED)
    problems: list[str] = []
    checked = stream(_Checked(dataset), ([index] for index in range(len(dataset))), threads=workers, prefetch=workers)
    with progress("verify", total=len(dataset), unit="clips") as bar:
        for (found,) in checked:
            problems += found
            bar.advance(1, problems=len(problems))
    return problems


class _Checked:
    """The problems of clips by their index."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset
        columns = dataset.texts().to_pydict()
        # An index of an earlier version has none of them, or neither kind of depth nor seed.
        stated = any(any(values) for values in columns.values())
        some = {name: values for name, values in columns.items() if name not in ("depth_kind", "seed") or any(values)}
        self._texts = some if stated else {}

    def __getitem__(self, index: int) -> list[str]:
        dataset, row = self.dataset, self.dataset.row(index)
        where = f"{row['shard']}: clip {row['key']}:"
        problems: list[str] = []
        members: dict[str, bytes] = {}
        for name in row["members"]:
            try:
                members[name] = dataset.member(row, name)
            except ClipFault as error:
                problems.append(error.brief)
            else:
                if hashlib.sha256(members[name]).hexdigest() != row["members"][name]["sha256"]:
                    problems.append(f"{where} {name} differs from the sha256 in the index")
        if "mp4" in members:
            try:
                with reading(dataset.folder / row["shard"]):
                    count = frame_count(members["mp4"])
                if count != row["frames"]:
                    problems.append(f"{where} mp4 holds {count} frames, the index says {row['frames']}")
            except ValueError as error:
                problems.append(f"{where} mp4 {error}")
        if "truth" in members:
            try:
                blob.check_sums(members["truth"])  # a reader that has compared the sha256 leaves them out
            except ValueError as error:
                problems.append(f"{where} truth {error}")
        if not problems:
            try:
                dataset[index]
            except ClipFault as error:
                problems.append(error.brief)
        if not problems:
            stated = texts_of(members)
            problems += [
                f"{where} json {name}: is {stated[name]!r:.80}, the index says {values[index]!r:.80}"
                for name, values in self._texts.items()
                if stated[name] != values[index]
            ]
        return problems
