"""RAFT from local files: translations in pixels of the clip, any size of frames, and refusals of one line.

torchvision is a stand-in that finds whole translations of a picture, but for the last test.
"""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.teachers.both_ways import both_ways
from phys4d.teachers.registry import FLOW_TEACHERS, teacher_spec
from tests.teachers.stand_in_torchvision import stand_in
from tests.teachers.test_dis import texture

__all__ = ["stand_in"]

LARGE = {"bias": torch.zeros(2), "mask_predictor.x": torch.zeros(1)}


@pytest.fixture
def raft(stand_in: None, tmp_path: Path) -> Callable[..., Any]:
    """raft(weights, **settings): the prepared teacher with these weights."""

    def make(weights: dict[str, Tensor] = LARGE, name: str = "raft.safetensors", **settings: int) -> Any:
        file = tmp_path / name
        if name.endswith(".safetensors"):
            safetensors.torch.save_file(weights, file)
        else:
            torch.save(weights, file)
        spec = teacher_spec("flow", "raft")
        teacher = spec.teacher(spec.config(weights=file, **settings))
        teacher.prepare()
        return teacher

    return make


@pytest.mark.parametrize(("height", "width", "shift"), [(136, 149, (3, -2)), (48, 70, (1, -1))])
def test_a_translation_in_pixels_of_the_clip_at_any_size(
    raft: Callable[..., Any], height: int, width: int, shift: tuple[int, int]
) -> None:
    """48 rows are enlarged to 128: the network sees 2.7 pixels and its whole 3 become 1.1 of the clip."""
    canvas = texture(height + 40, width + 40, 2.0)
    u, v = shift
    rows, columns = ([20 - t * step for t in range(5)] for step in (v, u))
    video = np.stack([canvas[r : r + height, c : c + width] for r, c in zip(rows, columns, strict=True)])
    teacher = raft(batch=3, updates=7)
    flow, valid = teacher.label(video)
    assert flow.shape == (2, 4, height, width) and flow.dtype == np.float32 and valid.shape == (4, height, width)
    assert np.abs(flow[0] - u).max() < 0.2 and np.abs(flow[1] - v).max() < 0.2
    assert valid[:, 8:-8, 8:-8].all() and not (valid[:, :, -1].any() if u > 0 else False)
    batches = [(shape[0], updates) for shape, updates in teacher.model.calls]
    assert batches == [(3, 7), (1, 7)] * 2  # there, and back
    assert teacher.label(video[:1])[0].shape == (2, 0, height, width)


def test_weights_decide_the_kind_and_are_named(raft: Callable[..., Any]) -> None:
    large = raft().provenance()
    small = raft({"bias": torch.zeros(2)}, "small.pth").provenance()
    assert (large["kind"], small["kind"]) == ("large", "small") and small["file"] == "small.pth"
    assert len(large["weights_sha256"]) == 64 != large["weights_sha256"] == raft().provenance()["weights_sha256"]
    assert large["versions"] == {"torch": torch.__version__, "torchvision": "0.0"}
    assert raft(LARGE | {"bias": torch.ones(2)}).provenance()["weights_sha256"] != large["weights_sha256"]


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_damaged_hostile_and_foreign_files_are_refused(
    raft: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = teacher_spec("flow", "raft")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"a": Hostile()}))
    torch.save({"state": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "training.pth")
    torch.save(Hostile(), tmp_path / "zip.pth")
    cases = {
        "cut.pth": "does not load", "cut.safetensors": "does not load", "empty.pth": "does not load",
        "hostile.pth": "does not load", "zip.pth": "does not load", "training.pth": "holds more than tensors by name",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as refused:
            spec.teacher(spec.config(weights=tmp_path / name)).prepare()
        assert f"{refused.value}".startswith(f"{tmp_path / name}: ") and "\n" not in f"{refused.value}"
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UserError, match=r"raft\.safetensors: holds no weights of RAFT \(.*bias"):
        raft({"mask_predictor.x": torch.zeros(1)})
    for name, message in (("gone.pth", "no such file"), ("raft.onnx", r"names a \.pth or \.pt or \.safetensors file")):
        with pytest.raises(UserError, match=message):
            spec.teacher(spec.config(weights=tmp_path / name))


def test_flow_that_is_not_finite_is_neither_kept_nor_trusted() -> None:
    wrong = np.zeros((1, 2, 8, 8), np.float32)
    wrong[0, 0, 2, 3], wrong[0, 1, 4, 5] = np.nan, np.inf
    flow, valid = both_ways([0, 1], (8, 8), lambda first, second: wrong if first == [0] else np.zeros_like(wrong))
    assert np.isfinite(flow).all() and not valid[0, 2, 3] and not valid[0, 4, 5] and valid.sum() == 62
    flow, valid = both_ways([0, 1], (8, 8), lambda first, second: wrong if first == [1] else np.zeros_like(wrong))
    assert not flow.any() and not valid[0, 2, 3] and not valid[0, 4, 5] and valid.sum() >= 64 - 2 * 9


def test_the_command_line(
    raft: Callable[..., Any], write_clips: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raft()
    videos, scenes = write_clips("videos", 2, 1, truth=False), write_clips("scenes", 1, 1)
    words = ["label", "--videos", str(videos), "--out", str(tmp_path / "out"), "--scenes", str(scenes)]
    words += ["--steps", "1", "--set", "depth.width=4", "--flow", "raft"]
    assert main(words) == 2
    assert "phys4d: error: --flow raft: weights: " in capsys.readouterr().err
    assert main([*words, "--set", f"flow.weights={tmp_path}/raft.safetensors", "--set", "flow.updates=2"]) == 0
    assert verify(tmp_path / "out") == []
    record = ClipDataset(tmp_path / "out").meta(0)["provenance"]["labels"]["flow"]
    assert record["name"] == "RAFT" and record["settings"] == {"batch": 4, "updates": 2, "enlarged_below": 128}


def test_an_absent_or_unfitting_torchvision_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    sys.modules.pop("phys4d.teachers.raft", None)
    with pytest.raises(UserError, match=r"--flow raft: needs the module torchvision: pip install 'phys4d\[raft\]'"):
        teacher_spec("flow", "raft")
    monkeypatch.setitem(FLOW_TEACHERS, "other", "tests.teachers.no_such_operator")
    with pytest.raises(UserError, match=r"--flow other: a package does not load \(operator torchvision::nms"):
        teacher_spec("flow", "other")


def test_raft_of_torchvision_with_random_weights(tmp_path: Path) -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", reason="torchvision fits no torch for CPUs")
    spec = teacher_spec("flow", "raft")
    video = np.random.default_rng(0).integers(0, 255, (3, 130, 150, 3)).astype(np.uint8)
    for kind, ending in (("large", "pth"), ("small", "safetensors")):
        torch.manual_seed(0)
        weights = getattr(optical_flow, f"raft_{kind}")(weights=None).state_dict()
        file = tmp_path / f"{kind}.{ending}"
        save = torch.save if ending == "pth" else safetensors.torch.save_file
        save(weights, file)
        made = []
        for batch in (1, 2):
            teacher = spec.teacher(spec.config(weights=file, batch=batch, updates=2))
            teacher.prepare()
            assert teacher.provenance()["kind"] == kind
            made.append(teacher.label(video))
        assert made[0][0].shape == (2, 2, 130, 150) and np.isfinite(made[0][0]).all()
        np.testing.assert_allclose(made[0][0], made[1][0], atol=1e-3)
