"""A rank's part of a tensor that is divided by its elements in row-major order, as DeepSpeed divides parameters.

torch's distributed checkpoints store boxes of a tensor; a range of elements is a few of them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

_aten = torch.ops.aten
_SAME_PART = (_aten.detach.default, _aten.clone.default, _aten.empty_like.default, _aten.zeros_like.default)


class FlatPart(Tensor):
    """A tensor of which this rank holds a range of elements; DCP saves it and loads into it.

    own: [n], these elements, in memory that others may share. start: position of the first one in the flattened tensor.
    shape: of the whole tensor.
    """

    own: Tensor
    start: int

    @staticmethod
    def __new__(cls, own: Tensor, start: int, shape: Sequence[int]) -> "FlatPart":
        part: FlatPart = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, torch.Size(shape), dtype=own.dtype, device=own.device
        )
        part.own, part.start = own, start
        return part

    def __init__(self, own: Tensor, start: int, shape: Sequence[int]) -> None:
        super().__init__()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FlatPart({tuple(self.shape)}, elements {self.start} to {self.start + len(self.own)})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func not in _SAME_PART:
            raise TypeError(f"{func} of a FlatPart: use its own elements")
        part, *others = args
        return FlatPart(func(part.own, *others, **(kwargs or {})), part.start, part.shape)

    def _boxes(self) -> list[tuple[torch.Size, Tensor]]:
        found, done = [], 0
        for offsets, sizes in boxes(self.shape, self.start, self.start + len(self.own)):
            count = math.prod(sizes)
            found.append((torch.Size(offsets), self.own[done : done + count].view(sizes)))
            done += count
        return found

    def __create_write_items__(self, name: str, part: "FlatPart") -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.own)
        return [
            WriteItem(
                index=MetadataIndex(name, offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(ChunkStorageMetadata(offsets, box.shape), properties, self.shape),
            )
            for offsets, box in self._boxes()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(offsets, box.shape) for offsets, box in self._boxes()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return next(box for offsets, box in self._boxes() if offsets == index.offset)


def boxes(shape: Sequence[int], start: int, stop: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Elements start to stop of a flattened tensor as boxes of the tensor, (offsets, sizes), in the same order."""
    if start >= stop:
        return []
    if not shape:
        return [((), ())]
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if first > last:  # within one row
        return _in_row(last, boxes(shape[1:], start - last * row, stop - last * row))
    found = _in_row(first - 1, boxes(shape[1:], start - (first - 1) * row, row)) if start < first * row else []
    if first < last:
        found.append(((first, *[0] * (len(shape) - 1)), (last - first, *shape[1:])))
    return found + _in_row(last, boxes(shape[1:], 0, stop - last * row))


def _in_row(
    row: int, within: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [((row, *offsets), (1, *sizes)) for offsets, sizes in within]


def part_of(parameter: Tensor) -> FlatPart | None:
    """This rank's part of a parameter that ZeRO-3 has divided, whose own data are empty but when it is gathered; None
    for any other tensor."""
    held: Tensor | None = getattr(parameter, "ds_tensor", None)
    if held is None:
        return None
    shape: torch.Size = parameter.ds_shape  # type: ignore[attr-defined]
    start = len(held) * parameter.ds_zero_partition_rank  # type: ignore[attr-defined]
    count = max(0, min(len(held), math.prod(shape) - start))  # the last ranks hold padding
    return FlatPart(held[:count], min(start, math.prod(shape)), shape)


def detached(parameter: Tensor) -> Tensor:
    """A parameter without gradient: this rank's part of one that ZeRO-3 has divided."""
    part = part_of(parameter)
    return parameter.detach() if part is None else part
