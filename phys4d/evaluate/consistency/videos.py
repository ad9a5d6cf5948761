"""The 4D suite for videos of any model: a model of ours reads geometry off them, which is scored against the truth."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phys4d.caches.lookup import find_cache
from phys4d.caches.source import Source
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.clip import clip_figures
from phys4d.evaluate.consistency.models import predicted
from phys4d.evaluate.consistency.predictions import check_truth
from phys4d.evaluate.consistency.table import Scored, summary
from phys4d.evaluate.consistency.video_files import fitted_video, say_fitted
from phys4d.evaluate.run import reader_digest
from phys4d.evaluate.scenes import EvaluateConfig, Scenes, in_batches, prepare
from phys4d.models import folder as model_folder
from phys4d.models.interface import encode_clips, encode_first, from_bytes
from phys4d.models.world import WorldModel

ENDING = ".mp4"
_Measured = tuple[Scored, str]  # a clip, and how its video was fitted to its truth


def video_folders(folders: Sequence[Path], data: Path) -> dict[str, dict[int, Path]]:
    """Row (the folder's name) -> number of a clip of the dataset -> its video, KEY.mp4.

    Raises UserError for a folder without videos, two of one name, and a video that no clip has the key of.
    """
    numbers = {key: number for number, key in enumerate(ClipDataset(data).keys().to_pylist())}
    rows: dict[str, dict[int, Path]] = {}
    for folder in folders:
        found = {path.name.removesuffix(ENDING): path for path in sorted(folder.glob(f"*{ENDING}"))}
        if not found:
            raise UserError(f"{folder}: holds no videos: expected KEY{ENDING}, one for each clip of {data}")
        if unknown := sorted(found.keys() - numbers.keys()):
            some = next(iter(numbers), None)
            raise UserError(
                f"{found[unknown[0]]}: {data} has no clip of that key (its first is {some}): "
                "name each video by the key of its truth"
            )
        if (row := folder.resolve().name) in rows:
            raise UserError(f"{folder}: a row {row} is there already: rename one of the folders")
        rows[row] = {numbers[key]: path for key, path in found.items()}
    return rows


@torch.no_grad()
def score_videos(
    rows: Mapping[str, Mapping[int, Path]], reader: Path, config: EvaluateConfig, parallel: Parallel,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]] | None:  # fmt: skip
    """Scores videos by the depth and motion that a model's heads read off them; the ranks share the videos.

    rows: of `video_folders`. reader: model folder. config: its data, batch, seed and precision count. parallel: ranks
    and device. say: prints a line, on rank 0.

    Returns row -> `table.summary` with the digest of the reader, on rank 0; None on other ranks. Raises UserError for a
    video that does not fit its truth (`fitted_video`), and as `run.evaluate` does.
    """
    loaded = on_all_ranks(lambda: model_folder.load(reader))
    source = Source(loaded.model.config.kind, loaded.base)
    cache = on_all_ranks(lambda: find_cache(config.data, config.latents, "auto", source))
    digest, found = reader_digest(loaded.model), dict[str, dict[str, Any]]()
    those = config.model_copy(update={"scenes": 0})  # of the clips, those that have a video
    for row, videos in rows.items():
        scenes = prepare(loaded.model, those, parallel, sorted(videos), cache)

        def measure(some: list[int], scenes: Scenes = scenes, videos: Mapping[int, Path] = videos) -> list[_Measured]:
            return _measure(loaded.model, config, scenes, some, videos, parallel)

        parts = in_batches(loaded.model, scenes, config.batch, row, parallel, measure)
        if parts is not None:
            every = [one for part in parts for one in part]
            found[row] = summary([clip for clip, _ in every]) | {"read_by": digest}
            say_fitted(row, every, say)
    return found if parallel.rank == 0 else None


def _measure(
    model: WorldModel, config: EvaluateConfig, scenes: Scenes, some: list[int], videos: Mapping[int, Path],
    parallel: Parallel,
) -> list[_Measured]:  # fmt: skip
    """The videos of a batch, each scored against its truth, and how it was fitted to it."""
    keys: list[tuple[int | str, ...]] = [(config.seed, "evaluate", scene) for scene in some]
    batch = on_all_ranks(lambda: scenes.clips.collate(some, keys, parallel.device))
    frames, height, width = batch.arrays["depth"].shape[1:]
    size = (frames, height, width)
    metas = {scene: scenes.clips.sample(scene).meta for scene in some}
    fitted = on_all_ranks(lambda: [fitted_video(videos[scene], size, metas[scene]) for scene in some])
    pixels = np.stack([video.frames for video in fitted])
    video = from_bytes(torch.from_numpy(pixels).to(parallel.device))
    clean = encode_clips(model.codec, video)
    first = encode_first(model.codec, video[:, :, :1], size[0]) if model.codec.image_apart else clean[:, :, :1]
    geometry = model.read_geometry(clean, batch.text, batch.normal_like(clean, "probe"), first=first)
    truth = {name: array.cpu().numpy() for name, array in batch.arrays.items()}
    scored = []
    for i, (scene, fit) in enumerate(zip(some, fitted, strict=True)):
        sample = scenes.clips.sample(scene)
        check_truth(truth["depth"][i].shape, sample.meta, f"{config.data}, clip {sample.key}")
        figures = clip_figures(predicted(geometry, i), {name: array[i] for name, array in truth.items()}, sample.meta)
        scored.append((Scored(sample.key, sample.meta.get("category", ""), figures), fit.changed))
    return scored
