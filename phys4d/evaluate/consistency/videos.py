"""The 4D suite for videos of any model: a model of ours reads geometry off them, which is scored against the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phys4d.caches.lookup import find_cache
from phys4d.caches.source import Source
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders.interface import Request, decode
from phys4d.engine.data.decoders.probe import frame_count
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.clip import clip_figures
from phys4d.evaluate.consistency.models import predicted
from phys4d.evaluate.consistency.predictions import check_truth
from phys4d.evaluate.consistency.table import Scored, summary
from phys4d.evaluate.run import reader_digest
from phys4d.evaluate.scenes import EvaluateConfig, Scenes, in_batches, prepare
from phys4d.models import folder as model_folder
from phys4d.models.interface import encode_clips, encode_first, from_bytes
from phys4d.models.world import WorldModel

ENDING = ".mp4"


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
    rows: Mapping[str, Mapping[int, Path]], reader: Path, config: EvaluateConfig, parallel: Parallel
) -> dict[str, dict[str, Any]] | None:
    """Scores videos by the depth and motion that a model's heads read off them; the ranks share the videos.

    rows: of `video_folders`. reader: model folder. config: its data, batch, seed and precision count. parallel: ranks
    and device.

    Returns row -> `table.summary` with the digest of the reader, on rank 0; None on other ranks. Raises UserError for a
    video that cannot be read or is not of the size and length of its truth, and as `run.evaluate` does.
    """
    loaded = on_all_ranks(lambda: model_folder.load(reader))
    source = Source(loaded.model.config.kind, loaded.base)
    cache = on_all_ranks(lambda: find_cache(config.data, config.latents, "auto", source))
    digest, found = reader_digest(loaded.model), dict[str, dict[str, Any]]()
    every = config.model_copy(update={"scenes": 0})  # of the clips, those that have a video
    for row, videos in rows.items():
        scenes = prepare(loaded.model, every, parallel, sorted(videos), cache)

        def measure(some: list[int], scenes: Scenes = scenes, videos: Mapping[int, Path] = videos) -> list[Scored]:
            return _measure(loaded.model, config, scenes, some, videos, parallel)

        parts = in_batches(loaded.model, scenes, config.batch, row, parallel, measure)
        if parts is not None:
            found[row] = summary([one for part in parts for one in part]) | {"read_by": digest}
    return found if parallel.rank == 0 else None


def _measure(
    model: WorldModel, config: EvaluateConfig, scenes: Scenes, some: list[int], videos: Mapping[int, Path],
    parallel: Parallel,
) -> list[Scored]:  # fmt: skip
    """The videos of a batch, each scored against its truth."""
    keys: list[tuple[int | str, ...]] = [(config.seed, "evaluate", scene) for scene in some]
    batch = on_all_ranks(lambda: scenes.clips.collate(some, keys, parallel.device))
    size = batch.arrays["depth"].shape[1:]
    pixels = on_all_ranks(lambda: np.stack([_video(videos[scene], size) for scene in some]))
    video = from_bytes(torch.from_numpy(pixels).to(parallel.device))
    clean = encode_clips(model.codec, video)
    first = encode_first(model.codec, video[:, :, :1], size[0]) if model.codec.image_apart else clean[:, :, :1]
    geometry = model.read_geometry(clean, batch.text, batch.normal_like(clean, "probe"), first=first)
    truth = {name: array.cpu().numpy() for name, array in batch.arrays.items()}
    scored = []
    for i, scene in enumerate(some):
        sample = scenes.clips.sample(scene)
        check_truth(truth["depth"][i].shape, sample.meta, f"{config.data}, clip {sample.key}")
        figures = clip_figures(predicted(geometry, i), {name: array[i] for name, array in truth.items()}, sample.meta)
        scored.append(Scored(sample.key, sample.meta.get("category", ""), figures))
    return scored


def _video(path: Path, size: Sequence[int]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of a video, which must have the size (T, H, W)."""
    frames, height, width = size
    want = f"expected {frames} frames of {height} x {width} pixels, as its truth has: scale and cut it first"
    try:
        data = path.read_bytes()
        if (count := frame_count(data)) != frames:
            raise ValueError(f"holds {count} frames")
        found = np.asarray(decode(PyAVDecoder(), Request(data, frames)))
        if found.shape[1:3] != (height, width):
            raise ValueError(f"is of {found.shape[1]} x {found.shape[2]} pixels")
        return found
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {error}; {want}") from None
