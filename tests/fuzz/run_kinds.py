"""Kinds of files that a run writes and reads again: checkpoints, model folders, and what describes the run."""

from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.fuzz.mutations import damaged, json_text

Case = dict[str, bytes]


def files(folder: Path) -> Case:
    """All files below a folder by their path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def in_any_file(case: Case, draw: Random) -> Case:
    """Damages one of the files, or gives a JSON file other values."""
    name = draw.choice(sorted(case))
    change = json_text if name.endswith(".json") and draw.random() < 0.5 else damaged
    return case | {name: change(case[name], draw)}


@cache
def build_checkpoint() -> Case:
    """Two checkpoints of a stage."""
    import torch

    from phys4d.engine import checkpoint

    with TemporaryDirectory() as folder:
        for step in (1, 2):
            checkpoint.save(Path(folder), "a", step, {"w": torch.full((3, 5), float(step)), "n": torch.tensor(step)})
        return files(Path(folder))


def read_checkpoint(folder: Path) -> dict[str, str]:
    """The tensors of each checkpoint that can be read."""
    import torch

    from phys4d.engine import checkpoint
    from phys4d.engine.errors import UserError
    from tests.fuzz.kinds import digest

    read = {}
    for step in (1, 2):
        state = {"w": torch.zeros(3, 5), "n": torch.tensor(0)}
        try:
            checkpoint.load(folder / f"checkpoint-a-{step}", state)
        except UserError as error:
            assert str(error).isprintable(), error
            continue
        read[f"{step}"] = digest(state["w"].numpy(), state["n"].item())
    return read


@cache
def build_model() -> Case:
    """A model with an adapter, and the folder of its backbone."""
    from phys4d.models import folder as model_folder
    from phys4d.models.config import ModelConfig
    from phys4d.models.lora import add_adapter
    from phys4d.models.world import create_model

    with TemporaryDirectory() as name:
        root = Path(name)
        model = create_model(ModelConfig(width=32, layers=1, taps=(0,)), 5, 16, 16, seed=0)
        model_folder.save(model, root / "base", stage="backbone", base=None)
        add_adapter(model.backbone.transformer, "finetune", 2, 0, targets=model.backbone.lora_targets)
        model_folder.save(model, root / "model", stage="finetune", base=root / "base")
        return files(root)


def read_model(folder: Path) -> dict[str, str]:
    """All weights of the model."""
    from phys4d.models import folder as model_folder
    from tests.fuzz.kinds import digest

    model = model_folder.load(folder / "model").model
    return {"model": digest(*(p.detach().numpy() for _, p in sorted(model.named_parameters())))}


@cache
def build_run() -> Case:
    """A run folder with log lines, and without stages."""
    from phys4d.engine.config import Config
    from phys4d.engine.run_folder.run import Run

    with TemporaryDirectory() as name:
        folder = Path(name) / "run"
        with Run.create(folder, Config(), resume=False, identities={"a.data": "b"}) as run, run.clock.stage("a"):
            for step in range(3):
                run.log("a", step, {"loss": 1 / (step + 1)})
        return {path: data for path, data in files(folder).items() if "tensorboard" not in path and path != ".lock"}


def read_run_folder(folder: Path) -> dict[str, str]:
    """The run resumed in it; what it goes on with is no item of the case."""
    from phys4d.engine.config import Config
    from phys4d.engine.run_folder.run import Run

    with Run.create(folder, Config(), resume=True, identities={"a.data": "b"}) as run:
        run.resume_at("a", 1)
        run.noted("a", "loss")
        run.log("a", 2, {"loss": 0.5})
    return {}
