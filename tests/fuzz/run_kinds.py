"""Kinds of files that a run writes and reads again: caches, checkpoints, model folders, and what describes the run."""

import json
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

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
    """All weights of the model, on its device."""
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.models import folder as model_folder
    from phys4d.models.placement import place
    from tests.fuzz.kinds import digest

    model = place(model_folder.load(folder / "model").model, Parallel.alone())
    return {"model": digest(*(p.detach().numpy() for _, p in sorted(model.named_parameters())))}


@cache
def build_cache() -> Case:
    """A dataset of three clips, and the latents and tokens of its clips."""
    from phys4d.caches.source import Source
    from phys4d.caches.write import encode_dataset
    from phys4d.engine.data.clip.video import encode_mp4
    from phys4d.engine.data.files.shards import ShardWriter
    from phys4d.engine.distributed.parallel import Parallel

    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)
    meta = {"caption": "a ball falls", "intrinsics": [[[20, 0, 8], [0, 20, 8], [0, 0, 1]]] * 5}
    with TemporaryDirectory() as name:
        data = Path(name) / "data"
        with ShardWriter(data) as writer:
            for clip in range(3):
                members = {"mp4": encode_mp4(np.roll(frames, clip, 2), 24), "json": json.dumps(meta).encode()}
                writer.add(f"clip{clip}", members, 5, 24, 16, 16)
        encode_dataset(data, data / "cache", Source("tiny", None), Parallel.alone())
        return files(Path(name))


def in_cache(case: Case, draw: Random) -> Case:
    """Damages a file of the cache, or gives a JSON file of it other values; each kind of file as often."""
    ending = draw.choice((".tar", ".parquet", ".json"))
    return case | in_any_file({path: case[path] for path in case if "/cache/" in path and path.endswith(ending)}, draw)


def read_cache(folder: Path) -> dict[str, str]:
    """Latents and tokens of each clip that can be read, as training reads them."""
    from phys4d.caches.lookup import find_cache
    from phys4d.caches.source import Source
    from phys4d.caches.verify import verify_cache
    from phys4d.engine.data.dataset import ClipDataset
    from phys4d.engine.errors import UserError
    from tests.fuzz.kinds import digest

    data, source, read = folder / "data", Source("tiny", None), {}
    cache = find_cache(data, None, "required", source)
    assert cache is not None
    verify_cache(data / "cache")
    clips = ClipDataset(data, arrays=())
    for index in range(len(clips)):
        try:
            sample = cache.read(index, clips.read(index, video=False))
        except UserError as error:
            assert str(error).isprintable(), error
            continue
        read[sample.key] = digest(sample.latents.float().numpy(), sample.text.float().numpy())
    return read


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
