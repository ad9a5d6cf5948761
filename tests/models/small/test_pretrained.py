"""The trained model that comes with the package: whole, small, named alike on every machine, of some use."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from phys4d.clips import Clips
from phys4d.engine.config import build, dump_toml
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.generate.opening import kind_of, open_model
from phys4d.models.card import base_of, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.folder import released, save
from phys4d.models.lora import SUPERVISED, add_adapter
from phys4d.models.placement import place
from phys4d.models.shipped import opened, shown
from phys4d.models.wan21.spec import SPEC as WAN21
from phys4d.simulation.generate import SimulateConfig, simulate
from phys4d.stages.run_file import RunConfig

NAME = Path("phys4d:small")
FOLDER = opened(NAME)


def test_its_weights_are_those_of_its_record_and_few() -> None:
    record = json.loads((FOLDER / "provenance.json").read_text())
    files = {str(file.relative_to(FOLDER)): file for file in FOLDER.rglob("*.safetensors")}
    assert {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()} == record["sha256"]
    assert sum(file.stat().st_size for file in files.values()) < 15 << 20


def test_run_files_keep_the_name_and_not_the_place() -> None:
    run = build(RunConfig, {"folder": "runs/a", "stages": ["pretrain"], "init": str(NAME)}, "run.toml")
    assert run.init == FOLDER
    assert f'init = "{NAME}"' in dump_toml(run) and str(FOLDER) not in dump_toml(run)
    elsewhere = build(RunConfig, {"folder": "runs/a", "stages": ["pretrain"], "init": "models/a"}, "run.toml")
    assert elsewhere.init == Path("models/a") and shown(elsewhere.init) == "models/a"


def test_a_name_that_no_model_has() -> None:
    with pytest.raises(UserError, match=r"phys4d:large: no model of this name comes with phys4d: phys4d:small"):
        opened(Path("phys4d:large"))
    with pytest.raises(UserError, match=r"run\.toml: init: .*phys4d:large"):
        build(RunConfig, {"folder": "runs/a", "stages": ["pretrain"], "init": "phys4d:large"}, "run.toml")


def test_it_is_of_its_own_kind_alone() -> None:
    assert kind_of(FOLDER).kind == "small"
    assert not WAN21.recognises(FOLDER)


def test_a_model_on_top_of_it_names_it(tmp_path: Path) -> None:
    loaded = released(FOLDER, ModelConfig(kind="small", taps=(1, 3, 5)), (5, 16, 16))
    add_adapter(loaded.model.backbone.transformer, SUPERVISED, 4, 0, loaded.model.backbone.lora_targets)
    save(place(loaded.model, Parallel.alone()), tmp_path / "model-finetune", stage="finetune", base=loaded.base)
    moved = shutil.move(tmp_path / "model-finetune", tmp_path / "elsewhere")
    card = read_card(Path(moved))
    assert card.base == str(NAME) and base_of(card, Path(moved)) == FOLDER
    assert open_model(Path(moved), None, None, None).size == (5, 16, 16)


@torch.no_grad()
def test_what_it_generates_moves_as_the_truth_does(tmp_path: Path) -> None:
    """Nearer to the true clip by 3 dB and more, at the last frame, than the first frame and than other scenes' clips.
    """
    settings = SimulateConfig(
        families=("fall", "collision"), looks="plain", lens="fixed", clutter="none", clips=8, seed=77, frames=13,
        fps=20, truth=False,
    )  # fmt: skip
    simulate(settings, tmp_path / "data", workers=1)
    model = open_model(NAME, None, None, None).model.eval()
    place(model, Parallel.alone())
    batch = Clips(tmp_path / "data", (), model.text, model.grid).collate(range(8), [(0, i) for i in range(8)])
    clean = batch.encoded(model.codec)
    latents = model.generate(batch.first(model.codec, clean), batch.text, batch.normal_like(clean, "start"))
    made = model.codec.decode(latents)

    def error(video: torch.Tensor) -> float:
        return float(((video.clamp(-1, 1) - batch.video)[:, :, -1]).square().mean())

    assert error(made) < 0.5 * error(batch.video[:, :, :1].expand_as(made))
    assert error(made) < 0.5 * error(batch.video.roll(1, 0))
