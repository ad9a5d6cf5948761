"""torch's reader of distributed checkpoints, without the execution of code from their index.

The index of a DCP checkpoint (`.metadata`) is a pickle, which can name any function of any module. Here only the
classes that torch writes there are made; tensors are read by torch with weights_only=True.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

_CLASSES = {
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # Python 3.13
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
            "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
}  # fmt: skip


class TensorReader(FileSystemReader):
    """Reads the tensors of a checkpoint folder; anything else in its index is refused."""

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        """The index. Raises pickle.UnpicklingError for one that is not torch's index of tensors in this folder."""
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
            raise pickle.UnpicklingError("is no index of a checkpoint")
        for name, entry in metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"{name!r} is no tensor")
        for entry in metadata.storage_data.values():
            if Path(entry.relative_path).name != str(entry.relative_path):
                raise pickle.UnpicklingError(f"{str(entry.relative_path)!r} is no file of this folder")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CLASSES or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which no index of tensors does")
