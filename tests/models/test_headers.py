"""Headers of safetensors files: what is no such file, or not all of one, is named without reading its weights."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phys4d.engine.errors import UserError
from phys4d.models.headers import Stored, check_fits, read_header, read_weights
from phys4d.models.weights_digest import weights_digest


def sound(path: Path) -> bytes:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, path, metadata={"format": "pt"})
    return path.read_bytes()


def test_names_shapes_dtypes_and_metadata(tmp_path: Path) -> None:
    content = sound(tmp_path / "model.safetensors")
    tensors, metadata = read_header(tmp_path / "model.safetensors")
    assert {name: entry[:2] for name, entry in tensors.items()} == {"a": ("F32", (2, 3)), "b": ("BF16", (4,))}
    assert metadata == {"format": "pt"}
    first = len(content) - 32  # 24 bytes of a, then 8 of b, at the end
    assert (tensors["a"].begin, tensors["b"].begin) == (first, first + 24)


def resized(header: bytes, old: bytes, new: bytes) -> bytes:
    """A safetensors file with a piece of its header replaced, its length adapted."""
    length = int.from_bytes(header[:8], "little")
    text = header[8 : 8 + length].replace(old, new)
    return len(text).to_bytes(8, "little") + text + header[8 + length :]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda whole: whole[:-1], "bytes long, its header says "),
        (lambda whole: whole + b"\0", "bytes long, its header says "),
        (lambda whole: b"", "is no safetensors file (it is empty): download it again"),
        (lambda whole: whole[:5], "is no safetensors file (it begins with"),
        (lambda whole: whole[:20], "is no safetensors file (it begins with"),
        (lambda whole: b"<!DOCTYPE html><html>" * 9, "is no safetensors file (it begins with b'<!DOCTYP'): "),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer"),
        (lambda whole: resized(whole, b"F32", b"F16"), "a: 24 bytes for [2, 3] in F16): download it again"),
        (lambda whole: resized(whole, b'"dtype"', b'"dtipe"'), "is no safetensors file (its header: 'dtype'): "),
        (lambda whole: resized(whole, b"}", b"]"), "is no safetensors file (its header: "),
    ],
)
def test_what_is_no_whole_file_is_named(tmp_path: Path, change: object, line: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(change(sound(path)))  # type: ignore[operator]
    with pytest.raises(UserError) as refused:
        read_header(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    assert line in text


def test_a_pointer_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    line = f"{path}: is a git-lfs pointer, no weights: run `git lfs pull` in {tmp_path}"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        read_header(path)


def test_shards_must_hold_what_the_index_places_there(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "m-2.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    stored, files = read_weights(tmp_path, "m", "expected a model")
    assert {name: entry[:2] for name, entry in stored.items()} == {"a": ("F32", (2,)), "b": ("F32", (3,))}
    assert files == {"a": tmp_path / "m-1.safetensors", "b": tmp_path / "m-2.safetensors"}
    save_file({"c": torch.zeros(3)}, tmp_path / "m-2.safetensors")
    with pytest.raises(UserError, match=r"m-2\.safetensors: holds no b, which m\.safetensors\.index\.json places"):
        read_weights(tmp_path, "m", "expected a model")
    (tmp_path / "m-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"m-2\.safetensors: cannot be read \(No such file or directory\)"):
        read_weights(tmp_path, "m", "expected a model")


@pytest.mark.parametrize("other", ["m.bin", "m.gguf", "m.fp16.safetensors", "m.ckpt"])
def test_weights_in_another_format_or_under_another_name_are_named(tmp_path: Path, other: str) -> None:
    (tmp_path / other).write_bytes(b"weights")
    with pytest.raises(UserError, match=rf"m\.safetensors: no such file: there is {re.escape(other)}, but only safet"):
        read_weights(tmp_path, "m", "expected a model")


@pytest.mark.parametrize(
    ("stored", "line"),
    [
        ({"a": Stored("F32", (3, 2))}, "f: a is [3, 2], the net takes [2, 3]: is it of this model?"),
        ({"b": Stored("F32", (2, 3))}, "f: holds no a, which the net has: is it of this model?"),
        ({"a": Stored("F8_E4M3", (2, 3))}, "f: a is F8_E4M3, taken are F32, F16, BF16: take the unquantised folder"),
        ({"a": Stored("I8", (2, 3))}, "f: a is I8, taken are F32, F16, BF16: take the unquantised folder"),
    ],
)
def test_tensors_that_a_model_cannot_take_are_named(stored: dict[str, Stored], line: str) -> None:
    check_fits({"a": Stored("BF16", (2, 3))}, {"a": Path("f")}, {"a": (2, 3)}, "the net")
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        check_fits(stored, dict.fromkeys(stored, Path("f")), {"a": (2, 3)}, "the net")


def test_a_digest_of_weights_sees_every_tensor_and_not_the_files(tmp_path: Path) -> None:
    """Values, dtypes, shapes and names count, and how the tensors are divided over files does not."""
    tensors = {"a": torch.randn(70, 30), "b": torch.randn(4).bfloat16(), "c": torch.zeros(())}

    def digest(name: str, *parts: dict[str, torch.Tensor]) -> str:
        folder = tmp_path / name
        folder.mkdir()
        where = {key: f"model-{number}.safetensors" for number, part in enumerate(parts) for key in part}
        for number, part in enumerate(parts):
            save_file(part, folder / ("model.safetensors" if len(parts) == 1 else f"model-{number}.safetensors"))
        if len(parts) > 1:
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        return weights_digest(folder, "model", "expected a model")

    whole = digest("whole", tensors)
    divided = digest("divided", {"c": tensors["c"], "a": tensors["a"]}, {"b": tensors["b"]})
    assert divided == whole and len(whole) == 64
    others = {
        "value": tensors | {"b": tensors["b"] + 1}, "scaled": tensors | {"a": tensors["a"] * 1.001},
        "dtype": tensors | {"a": tensors["a"].half()}, "shape": tensors | {"a": tensors["a"].reshape(30, 70)},
        "name": {"d": tensors["a"], "b": tensors["b"], "c": tensors["c"]}, "fewer": {"a": tensors["a"]},
    }  # fmt: skip
    assert len({whole, *(digest(name, changed) for name, changed in others.items())}) == 1 + len(others)
    with pytest.raises(UserError, match="no such file"):
        weights_digest(tmp_path, "model", "expected a model")
