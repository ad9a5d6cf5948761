"""Names of clips by which a teacher's training clips are found among the clips that it is to label."""

from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError


def scene_identities(dataset: ClipDataset, index: int) -> frozenset[str]:
    """The names under which clip `index` is recognised in another dataset.

    One is the sha256 of its mp4, from the index. The other is its origin: "seed/key" for a simulated clip, whose json
    records the seed, else the key alone. Reads no truth.
    """
    row = dataset.row(index)
    seed = dataset.meta(index).get("provenance", {}).get("seed")
    origin = row["key"] if seed is None else f"{seed}/{row['key']}"
    return frozenset({f"sha256:{row['members']['mp4']['sha256']}", f"scene:{origin}"})


def all_identities(dataset: ClipDataset) -> frozenset[str]:
    """The identities of all clips of a dataset."""
    return frozenset().union(*(scene_identities(dataset, index) for index in range(len(dataset))))


def refuse_shared(dataset: ClipDataset, teacher: str, scenes: frozenset[str]) -> None:
    """Raises UserError where a clip of `dataset` is among `scenes`, those that the teacher of this name is trained on:
    a label from memory says nothing about the labels of other clips."""
    for index in range(len(dataset) if scenes else 0):
        if shared := scene_identities(dataset, index) & scenes:
            raise UserError(
                f"{dataset.folder}: clip {dataset.row(index)['key']}: teacher {teacher} learns from it too "
                f"({sorted(shared)[0]}): train the teacher on scenes of another seed"
            )
