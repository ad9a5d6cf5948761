"""`phys4d generate`: one clip, or all lines of a jsonl file, in the order of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import progress
from phys4d.generate.opening import Opened, digest_of, tiling
from phys4d.generate.request import FirstFrame, Request, first_frame
from phys4d.generate.sampling import Offload, Sampler, Settings, check_prompts, encoded_texts
from phys4d.generate.writing import Written, is_written, write_clip
from phys4d.models.backbone import Precision


@dataclass(frozen=True)
class Options:
    """The options of the command; None: the model's own.

    model: a run folder, a model folder, or that of a published model. lora: folder of one more LoRA. size: (height,
    width). frames: of a clip. steps, solver, shift: of sampling. precision: None: bf16 on an accelerator, else fp32.
    fov: degrees across the picture. crop: take pictures of another aspect. offload, vae_tiling: as in `Settings`. kept:
    how many frames of a clip are written, from the first; None: all.
    """

    model: Path
    lora: Path | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    steps: int | None = None
    solver: str | None = None
    shift: float | None = None
    precision: Precision | None = None
    fov: float = 60.0
    crop: bool = False
    offload: Offload = "none"
    vae_tiling: bool = False
    kept: int | None = None


@dataclass(frozen=True)
class Generated:
    """How many clips were written, how many were there already, and whether depth and motion are among the files."""

    written: int
    there: int
    geometry: bool


def generate(
    opened: Opened, wanted: Options, places: Sequence[tuple[Request, Path]], written: Written, device: torch.device
) -> Generated:
    """Generates clips that are not there yet, each in its own folder.

    opened: the model. wanted: options. places: requests and the folder of each. written: what a folder holds. device:
    that computes.

    Everything that can be refused is refused before weights are read. Raises UserError.
    """
    settings = _settings(opened, wanted, device)
    frames, records = {}, {}
    if settings.vae_tiling:
        tiling(opened.model.codec)
    check_prompts(opened, [request for request, _ in places])
    for request, folder in places:
        if opened.reads_image and request.image is None:
            raise UserError(f"{request.name}: image: is needed, the first frame from which this model goes on")
        if not opened.reads_image and request.image is not None:
            raise UserError(f"{request.name}: image: this model reads no first frame: leave it out")
        records[folder] = _record(opened, wanted, settings, request)
        if not is_written(folder, records[folder]):
            if OutputFolder.of(folder).is_occupied():
                raise UserError(f"{folder}: exists and is not empty: choose another folder or remove it")
            frames[folder] = first_frame(request.image, opened.size[1:], wanted.fov, crop=wanted.crop)
    missing = [(request, folder) for request, folder in places if folder in frames]
    if missing:
        _generate(opened, settings, missing, frames, records, written, wanted.kept)
    return Generated(len(missing), len(places) - len(missing), opened.has_heads)


def _generate(
    opened: Opened, settings: Settings, missing: Sequence[tuple[Request, Path]], frames: dict[Path, FirstFrame],
    records: dict[Path, Any], written: Written, kept: int | None,
) -> None:  # fmt: skip
    texts = [request.prompt for request, _ in missing]
    texts += [request.negative for request, _ in missing if request.guidance > 1]
    with progress("encode texts", total=1, unit="sets") as bar:
        tokens = encoded_texts(opened.source, texts, settings.device)
        bar.advance()
    sampler = Sampler(opened, settings)
    latents = sampler.first_latents([frames[folder] for _, folder in missing])
    with progress("generate", total=settings.steps * len(missing)) as bar:
        for (request, folder), first in zip(missing, latents, strict=True):
            clip = sampler.clip(request, first, tokens, bar).first(kept)
            write_clip(folder, clip, frames[folder].intrinsics, records[folder], written)


def _settings(opened: Opened, wanted: Options, device: torch.device) -> Settings:
    config = opened.model.config
    precision: Precision = "fp32" if device.type == "cpu" else "bf16"
    return Settings(
        solver=wanted.solver or opened.sampling.solver,
        steps=wanted.steps or config.sampling_steps,
        shift=wanted.shift or config.sampling_shift,
        precision=wanted.precision or precision,
        device=device,
        offload=wanted.offload,
        vae_tiling=wanted.vae_tiling,
    )


def _record(opened: Opened, wanted: Options, settings: Settings, request: Request) -> dict[str, Any]:
    """What a clip is made of, for its clip.json: equal records give equal clips on one machine."""
    frames, height, width = opened.size
    image = None if request.image is None else digest_of(request.image)
    return {
        **opened.identity, "image_sha256": image, "prompt": request.prompt,
        "negative": request.negative, "seed": request.seed, "guidance": request.guidance, "frames": frames,
        "height": height, "width": width, "solver": settings.solver, "steps": settings.steps, "shift": settings.shift,
        "precision": settings.precision, "fov": wanted.fov, "vae_tiling": settings.vae_tiling,
        **({} if wanted.kept is None else {"kept": wanted.kept}),
    }  # fmt: skip
