"""The dry run of a run file on GPUs that are not there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phys4d.cli import main
from phys4d.dry_run import run
from phys4d.dry_run.knobs import knobs
from phys4d.dry_run.model import fewer_blocks, source_of
from phys4d.dry_run.prediction import Prediction, predict
from phys4d.engine.costs.gpus import GIB, GPUS
from phys4d.stages.run_file import RunConfig

SIZE = (5, 32, 32)
TINY = {"width": 64, "layers": 4, "taps": (1, 3)}
RUN = """
folder = "run"
stages = ["finetune"]
model = { width = 64, layers = 4, taps = [1, 3] }
[finetune]
data = "data"
batch = 4
optimizer = { learning_rate = 1e-4 }
loop = { steps = 1 }
"""


@pytest.fixture(scope="module")
def alone(run_file: Callable[..., RunConfig]) -> Prediction:
    return _predicted(run_file(finetune={"batch": 4}, model=TINY), 1)


def _predicted(config: RunConfig, world_size: int) -> Prediction:
    return predict(config, "finetune", source_of(config, None), SIZE, world_size, GPUS["h100"])


def test_tokens_of_a_clip_are_divided_and_exchanged(run_file: Callable[..., RunConfig], alone: Prediction) -> None:
    """32 tokens of 64 channels over two ranks: for each of 4 blocks and 4 clips queries, keys, values and the result go
    there and, as gradients, back, 16 tokens of each rank, of which half go to the other, in fp32."""
    config = run_file(finetune={"batch": 4}, model=TINY, parallel={"context": 2})
    divided = _predicted(config, 2)
    assert divided.mesh == (1, 1, 2)
    assert divided.sent["attention"] == 4 * 4 * 2 * 4 * (16 * 64 * 4) // 2
    assert divided.sent["tokens and taps"] > 0 and divided.sent["gather weights"] > 0
    assert divided.memory["activations"] < alone.memory["activations"]
    assert 0.5 < divided.model_flops / alone.model_flops < 1  # heads make 4 of 5 frames, the codec encodes all


def test_places_of_frames_are_divided_and_exchanged_by_every_second_block(
    run_file: Callable[..., RunConfig], opensora: Path
) -> None:
    """Four blocks on frames of four places in fp32, of which each of two ranks has two: only the two blocks that attend
    within frames exchange, queries, keys, values and the result, there and back; 2 latent frames, 48 channels."""
    table = {"kind": "opensora", "taps": (0, 3)}
    config = run_file(finetune={"batch": 1}, model=table, init=opensora, parallel={"context": 2})
    divided = _predicted(config, 2)
    assert divided.sent["attention"] == 2 * 2 * 4 * (2 * 2 * 48 * 4) // 2
    assert divided.sent["tokens and taps"] > 0


def test_text_and_video_are_divided_and_exchanged_as_one_sequence(
    run_file: Callable[..., RunConfig], write_cogvideox: Callable[[Path], Path], tmp_path: Path
) -> None:
    """12 tokens of video and 10 of text over two ranks; three blocks of 32 channels, in fp32."""
    table, folder = {"kind": "cogvideox", "taps": (0, 2)}, write_cogvideox(tmp_path / "cogvideox")
    config = run_file(finetune={"batch": 1}, model=table, init=folder, parallel={"context": 2})
    divided = predict(config, "finetune", source_of(config, None), (9, 32, 32), 2, GPUS["h100"])
    assert divided.sent["attention"] == 3 * 2 * 4 * (11 * 32 * 4) // 2


def test_weights_and_moments_are_divided_over_shards_and_clips_over_all(
    run_file: Callable[..., RunConfig], alone: Prediction
) -> None:
    """On 2 x 2 ranks each has one of the four clips, and half of the weights."""
    config = run_file(finetune={"batch": 4}, model=TINY, parallel={"replicate": 2, "shard": 2})
    divided = _predicted(config, 4)
    assert divided.memory["parameters"] == pytest.approx(alone.memory["parameters"] / 2, rel=0.01)
    assert divided.memory["moments"] == pytest.approx(alone.memory["moments"] / 2, rel=0.01)
    assert divided.memory["activations"] < alone.memory["activations"] / 2
    assert 0.25 < divided.model_flops / alone.model_flops < 0.5  # every rank evaluates the heads, on one clip of four
    assert divided.sent["sum gradients over replicas"] == divided.sent["sum gradients over shards"]
    assert divided.clips == 4


def test_a_run_that_does_not_fit_is_given_the_setting_that_helps(run_file: Callable[..., RunConfig]) -> None:
    config = run_file(finetune={"batch": 4}, model=TINY)
    source = source_of(config, None)
    small = replace(GPUS["h100"], memory=0.025)
    assert not predict(config, "finetune", source, SIZE, 1, small).fits
    found = knobs(config, "finetune", source, SIZE, 1, small)
    assert found[0].settings == ("finetune.micro_batch=1",)
    assert [knob.prediction.fits for knob in found] == [False] * (len(found) - 1) + [True]
    table = config.finetune.model_copy(update={"micro_batch": 1})  # type: ignore[attr-defined]
    again = predict(config.model_copy(update={"finetune": table}), "finetune", source, SIZE, 1, small)
    assert found[0].prediction == again


def test_a_model_with_fewer_blocks_keeps_its_taps(run_file: Callable[..., RunConfig]) -> None:
    config = run_file(finetune={}, model={"width": 64, "layers": 12, "taps": (3, 7, 11)})
    assert fewer_blocks(source_of(config, None), 4) == (0, 1, 3)
    config = run_file(finetune={}, model={"width": 64, "layers": 12, "taps": (3, 7)})
    assert fewer_blocks(source_of(config, None), 4) == (0, 1)


def test_a_model_folder_needs_no_weights(run_file: Callable[..., RunConfig], released: Path, tmp_path: Path) -> None:
    for part in ("transformer", "vae", "text_encoder", "scheduler"):
        (tmp_path / part).mkdir()
        for path in (released / part).glob("*config.json"):
            (tmp_path / part / path.name).write_bytes(path.read_bytes())
    config = run_file(finetune={"batch": 1}, model={"kind": "wan", "taps": (0, 2)}, init=tmp_path)
    prediction = _predicted(config, 1)
    assert prediction.memory["codec"] > 0 and prediction.memory["text encoder"] > 0


def test_the_command_prints_tables_and_writes_all_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "run.toml", tmp_path / "out.json"
    path.write_text(RUN)
    asked = ["--dry-run", "--world-size", "2", "--clip", "5x32x32", "--gpu", "a100", "--json", str(out)]
    assert main(["train", str(path), *asked]) == 0
    printed = capsys.readouterr().out
    for line in ("2 x A100", "| activations |", "| gather weights |", "| MFU |", "Assumed shares"):
        assert line in printed
    result = json.loads(out.read_text())
    stage = result["stages"][0]
    assert stage["fits"] and stage["total"] == sum(stage["memory"].values()) < GIB
    assert f"| in all | {stage['total'] / GIB:.1f} |" in printed


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--world-size", "2"], "--world-size: only with --dry-run"),
        (["--dry-run", "--gpu", "h100"], "--gpu: only with --dry-run --world-size N, for N GPUs"),
        (["--model", "x"], "--model: only with --dry-run --world-size N, for N GPUs"),
        (["--dry-run", "--world-size", "0"], "--world-size: only with --dry-run, and at least 1"),
        (["--dry-run", "--world-size", "2", "--clip", "49x480"], "--clip 49x480: expected frames, height and width"),
        (["--dry-run", "--world-size", "2", "--clip", "6x32x32"], "clips of 6"),
        (["--dry-run", "--world-size", "8", "--clip", "5x32x32"], "finetune.batch: 4 does not divide over 8"),
        (["--dry-run", "--world-size", "2", "--clip", "5x32x32", "--model", "x"], "--model x: expected cogvideox-5b, "),
        (
            ["--dry-run", "--world-size", "2", "--clip", "5x32x32", "--model", "wan2.2-ti2v-5b"],
            '--model wan2.2-ti2v-5b: is of the kind "wan"',
        ),
        (
            ["--dry-run", "--world-size", "2", "--clip", "5x32x32", "--set", "model.kind=wan"],
            "init: names no folder: name one, or the published model: --model wan2.2-ti2v-5b",
        ),
        (
            ["--dry-run", "--world-size", "2", "--clip", "5x32x32", "--set", "model.kind=cogvideox"],
            "or the published model: --model cogvideox-5b or cogvideox-5b-i2v",
        ),
        (
            ["--dry-run", "--world-size", "2", "--clip", "5x32x32", "--set", 'parallel.strategy="deepspeed"'],
            'parallel.strategy: "deepspeed": a dry run counts "fsdp" alone: set that',
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    assert main(["train", str(path), *arguments]) == 2
    assert line in capsys.readouterr().err


def test_a_clip_is_frames_height_and_width() -> None:
    assert run.parsed_clip("121x704x1280") == (121, 704, 1280)


def with_and_without_caches(
    run_file: Callable[..., RunConfig], released: Path, stage: str, **table: int
) -> tuple[Prediction, Prediction]:
    """A stage that encodes its clips, and the same from caches."""

    def predicted(mode: str) -> Prediction:
        config = run_file(**{stage: table}, model={"kind": "wan", "taps": (0, 2)}, init=released, cache=mode)
        return predict(config, stage, source_of(config, None), SIZE, 1, GPUS["h100"])

    return predicted("off"), predicted("required")


def test_pretraining_from_caches_takes_neither_codec_nor_text_encoder(
    run_file: Callable[..., RunConfig], released: Path
) -> None:
    without, cached = with_and_without_caches(run_file, released, "pretrain", batch=2)
    assert without.memory["codec"] > 0 and without.memory["text encoder"] > 0
    assert cached.memory["codec"] == cached.memory["text encoder"] == 0
    assert cached.model_flops < without.model_flops and cached.seconds < without.seconds
    assert cached.memory["activations"] <= without.memory["activations"]
    assert all(cached.memory[kind] == without.memory[kind] for kind in ("parameters", "moments"))


@pytest.mark.slow
def test_reinforcement_from_caches_decodes_and_encodes_nothing(
    run_file: Callable[..., RunConfig], released: Path
) -> None:
    table = {"conditions": 1, "group": 2, "flow_matching_batch": 1, "steps": 2, "stochastic_steps": 1}
    without, cached = with_and_without_caches(run_file, released, "reinforce", **table)
    assert cached.memory["codec"] == without.memory["codec"] > 0 == cached.memory["text encoder"]
    of_two = with_and_without_caches(run_file, released, "pretrain", batch=2)  # the condition, and a clip of the step
    assert without.model_flops - cached.model_flops == of_two[0].model_flops - of_two[1].model_flops
