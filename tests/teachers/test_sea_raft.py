"""SEA-RAFT: its arithmetic is that of the public code, on weights by a formula; refusals are one line.

What is expected was computed by revision f41d0a7 of github.com/princeton-vl/SEA-RAFT on a CPU in fp32.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from phys4d.cli import main
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.tools.verify import verify
from phys4d.engine.errors import UserError
from phys4d.teachers.sea_raft import SEARAFTConfig, SEARAFTFlow
from phys4d.teachers.sea_raft_network import SEARAFT, _expected_error
from tests.teachers.formula_weights import formula_weights, layout, waves
from tests.teachers.stand_in_torchvision import Matching
from tests.teachers.test_dis import texture


def weights(features: str = "resnet18") -> dict[str, Tensor]:
    made = formula_weights(SEARAFT(features).state_dict())
    made["flow_head.2.weight"] *= 0.2  # flow of a few pixels
    made["flow_head.2.bias"] *= 0
    made["flow_head.2.bias"][4] += 1
    return made


def saved(file: Path, features: str = "resnet18") -> Path:
    """The file with weights by the formula, written as the published ones are: each tensor under one name."""
    network = SEARAFT(features)
    network.load_state_dict(weights(features))
    save_model(network, str(file))
    return file


def prepared(file: Path, **settings: float) -> SEARAFTFlow:
    teacher = SEARAFTFlow(SEARAFTConfig(weights=file, **settings))  # type: ignore[arg-type]
    teacher.prepare()
    return teacher


@pytest.mark.parametrize(
    ("features", "count", "digest"),
    [
        ("resnet18", 8_883_460, "03ac6218510f2edba4bf912e4bc27b91aeb46509a1bfba79b7ebc6f76ad07647"),
        ("resnet34", 19_663_876, "7a990eee2c9f12f2bef1a0eeb422f78cc0ec6e3dab455948d3074be592267658"),
    ],
)
def test_the_published_key_layout_and_counts(features: str, count: int, digest: str) -> None:
    with torch.device("meta"):
        network = SEARAFT(features)
    assert sum(tensor.numel() for tensor in network.parameters()) == count
    assert layout(network.state_dict()) == digest


def test_flow_and_expected_error_are_those_of_the_public_code() -> None:
    network = SEARAFT("resnet18").eval()
    network.load_state_dict(weights())
    frames = torch.from_numpy(waves(3, 133, 150)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        flow, error = network(frames[:2], frames[1:], 3)
    assert flow.shape == (2, 2, 133, 150) and error.shape == (2, 133, 150)
    for (pair, v, u), expected in {
        (0, 0, 0): [-1.058622, -0.093984, 1.213162],
        (0, 60, 71): [-16.426882, -8.469237, 1.0],
        (1, 132, 149): [-4.501818, -2.086526, 1.194219],
        (1, 20, 100): [-2.150133, 6.157329, 1.101652],
    }.items():
        np.testing.assert_allclose([*flow[pair, :, v, u], error[pair, v, u]], expected, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(flow.mean((0, 2, 3)), [-4.0683, 0.3921], atol=1e-3)
    assert error.mean() == pytest.approx(1.0375, abs=1e-4)


def test_the_expected_error_of_a_mixture() -> None:
    logits, scales = [0.0, np.log(3.0)], [np.log(5.0), 0.7]  # a quarter at 5 pixels, the rest at 1
    mixture = torch.tensor([*logits, *scales]).view(1, 4, 1, 1)
    assert _expected_error(mixture).item() == pytest.approx(0.25 * 5 + 0.75)
    mixture[:, 2] = -3
    assert _expected_error(mixture).item() == pytest.approx(1)


@pytest.mark.parametrize(("height", "width", "shift"), [(136, 149, (3, -2)), (48, 70, (1, -1))])
def test_pixels_of_the_clip_and_doubtful_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, shift: tuple[int, int]
) -> None:
    """A network that finds whole translations and doubts the left half of the frames it sees."""
    teacher, matching = prepared(saved(tmp_path / "a.safetensors"), batch=3), Matching(large=False)
    matching.bias.data.zero_()

    def network(first: Tensor, second: Tensor, updates: int) -> tuple[Tensor, Tensor]:
        assert updates == 4
        rows, columns = (-side % 8 for side in first.shape[2:])
        padded = (torch.nn.functional.pad(frames, (0, columns, 0, rows), "replicate") for frames in (first, second))
        flow = matching(*padded, 4)[-1][..., : first.shape[2], : first.shape[3]]
        error = torch.full_like(flow[:, 0], 2.9)
        error[:, :, : error.shape[2] // 2] = 3.1
        return flow, error

    monkeypatch.setattr(teacher, "model", network)
    canvas = texture(height + 40, width + 40, 2.0)
    u, v = shift
    rows, columns = ([20 - t * step for t in range(5)] for step in (v, u))
    video = np.stack([canvas[r : r + height, c : c + width] for r, c in zip(rows, columns, strict=True)])
    flow, valid = teacher.label(video)
    assert flow.shape == (2, 4, height, width) and flow.dtype == np.float32 and valid.shape == (4, height, width)
    assert np.abs(flow[0] - u).max() < 0.2 and np.abs(flow[1] - v).max() < 0.2
    assert not valid[:, :, : width // 2 - 1].any() and valid[:, 8:-8, width // 2 + 2 : -8].all()
    assert not valid[:, :, -1].any()  # leaves the frame
    assert [shape[0] for shape, _ in matching.calls] == [3, 1] * 2  # there, and back
    assert teacher.label(video[:1])[0].shape == (2, 0, height, width)


def test_batches_change_nothing(tmp_path: Path) -> None:
    file, video = saved(tmp_path / "a.safetensors"), waves(4, 40, 50)
    made = [prepared(file, batch=batch, updates=1, max_error=1.2).label(video) for batch in (1, 2)]
    np.testing.assert_allclose(made[0][0], made[1][0], atol=1e-4)
    assert np.abs(made[0][0]).mean() > 0.1 and (made[0][1] != made[1][1]).mean() < 0.01


def test_a_tensor_of_two_names_is_taken_by_either(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors")
    kept = load_file(file)
    assert any(".bn3." in name for name in kept) and not any(".downsample.1." in name for name in kept)
    other = {name.replace(".bn3.", ".downsample.1."): tensor for name, tensor in kept.items()}
    save_file(other, tmp_path / "b.safetensors")
    torch.save(weights(), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth: is no safetensors file: convert it: python -c .*") as refused:
        SEARAFTFlow(SEARAFTConfig(weights=tmp_path / "c.pth"))
    command = str(refused.value).partition("convert it: python")[2]
    subprocess.run(f"{sys.executable}{command}", shell=True, check=True)
    expected = weights()
    for name in ("a", "b", "c"):
        state = prepared(tmp_path / f"{name}.safetensors").model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_the_record_names_features_and_weights(tmp_path: Path) -> None:
    for features in ("resnet18", "resnet34"):
        file = saved(tmp_path / f"{features}.safetensors", features)
        record = json.loads(json.dumps(prepared(file, batch=2).provenance()))
        assert record["features"] == features and record["file"] == file.name
        assert record["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert record["settings"] == {"batch": 2, "updates": 4, "max_error": 3.0, "enlarged_below": 128}


def test_absent_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    for name, message in (("gone.safetensors", "no such file: put there a file"), ("a.onnx", "names a .safet")):
        with pytest.raises(UserError, match=message):
            SEARAFTFlow(SEARAFTConfig(weights=tmp_path / name))
    file = saved(tmp_path / "a.safetensors")
    whole, data = load_file(file), file.read_bytes()
    cases: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda w: w.pop("init_conv.bias"), "has no init_conv.bias"),
        (lambda w: w.update(extra=torch.ones(1)), "extra is not of it"),
        (lambda w: w.update({"init_conv.bias": torch.ones(3)}), r"init_conv.bias has shape \[3\], not \[256\]"),
    ]
    for change, message in cases:
        changed = dict(whole)
        change(changed)
        save_file(changed, file)
        with pytest.raises(UserError, match=rf"a\.safetensors: holds no weights of SEA-RAFT \({message}\): take a"):
            prepared(file)
    file.write_bytes(data[:1000])
    with pytest.raises(UserError, match=r"a\.safetensors: does not load \(.*\): download it again"):
        prepared(file)


def test_the_command_line(
    write_clips: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, scenes = write_clips("videos", 2, 1, truth=False), write_clips("scenes", 1, 1)
    words = ["label", "--videos", str(videos), "--out", str(tmp_path / "out"), "--scenes", str(scenes)]
    words += ["--steps", "1", "--set", "depth.width=4", "--flow", "sea-raft"]
    assert main(words) == 2
    assert "phys4d: error: --flow sea-raft: weights: " in capsys.readouterr().err
    file = saved(tmp_path / "a.safetensors")
    assert main([*words, "--set", f"flow.weights={file}", "--set", "flow.updates=1"]) == 0
    assert verify(tmp_path / "out") == []
    record = ClipDataset(tmp_path / "out").meta(0)["provenance"]["labels"]["flow"]
    assert record["name"] == "SEA-RAFT" and record["settings"]["updates"] == 1
