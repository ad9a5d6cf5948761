"""The model that generates: of a run, of a model folder, or as published, with one more LoRA if there is one."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from phys4d.caches.source import Source
from phys4d.engine.errors import UserError
from phys4d.engine.integrity import MANIFEST
from phys4d.models import folder as model_folder
from phys4d.models.card import CARD, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.headers import read_json
from phys4d.models.heads import HeadConfig
from phys4d.models.interface import Codec, check_size
from phys4d.models.lora import POLICY, adapter_names, load_adapter
from phys4d.models.lora_file import read_lora
from phys4d.models.registry import MODELS, published
from phys4d.models.shipped import opened
from phys4d.models.spec import ModelSpec, Outline, Sampling
from phys4d.models.world import WorldModel
from phys4d.stages.origin import last_model

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Opened:
    """A model whose transformer's weights are not yet read.

    model: on the CPU, frozen. source: of its codec and text encoder. sampling: as published. size: (frames, height,
    width) of the clips to come. has_heads: whether it reads depth and motion; else its heads are untrained. identity:
    name and digest of the model, and of the LoRA.
    """

    model: WorldModel
    source: Source
    sampling: Sampling
    size: Size
    has_heads: bool
    identity: dict[str, str]

    @property
    def reads_image(self) -> bool:
        """Whether a first frame is given: held among the latents, or read beside them."""
        return self.model.backbone.held > 0 or self.model.codec.image_apart

    @property
    def spec(self) -> ModelSpec:
        """Its kind."""
        return MODELS[self.source.kind]


def model_of(folder: Path) -> Path:
    """The model folder that a path stands for: of a run folder that of its last finished stage, of `phys4d:NAME` that
    in the package, else itself."""
    folder = opened(folder)
    if not os.path.isfile(folder / "config.toml"):
        return folder
    try:
        return last_model(folder)
    except UserError as error:
        raise UserError(str(error).removeprefix("init: ")) from None


def kind_of(folder: Path) -> ModelSpec:
    """The kind of the model in a published folder. Raises UserError where it is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: name a run folder, a model folder, or a published model")
    spec = next((spec for spec in published() if spec.recognises(folder)), None)
    if spec is None:
        titles = ", ".join(f"{spec.title}" for spec in published())
        config = folder / "transformer" / "config.json"
        name = read_json(config).get("_class_name") if config.is_file() else None
        holds = f": its transformer is {name}" if name else ""
        raise UserError(f"{folder}: is no run, no model folder of a stage, and no published model ({titles}){holds}")
    return spec


def open_model(path: Path, lora: Path | None, frames: int | None, size: tuple[int, int] | None) -> Opened:
    """The model in a folder, checked, for clips of this size.

    path: a run folder, a model folder, or that of a published model. lora: folder of one more LoRA, with which clips
    are generated; depth and motion are read without it. frames, size: of the clips, size (height, width); None: the
    model's own.

    Raises UserError, one line, where the model is not whole, the LoRA does not fit, or the codec refuses the size.
    """
    folder = model_of(path)
    if (folder / CARD).is_file():
        card = read_card(folder)
        spec, wanted = MODELS[card.model.kind], wanted_size(card.size, frames, size)
        loaded = model_folder.load(folder)
    else:
        spec = kind_of(folder)
        wanted = wanted_size(spec.sampling(folder).size, frames, size)
        unused = HeadConfig(kind="linear", width=8)
        loaded = model_folder.released(folder, ModelConfig(kind=spec.kind, taps=(0,), heads=unused), wanted)
    model = loaded.model
    _check_size(model, wanted, spec.outline(model.config, loaded.base))
    identity = {"model": folder.resolve().name}
    if (folder / MANIFEST).is_file():
        identity["model_sha256"] = digest_of(folder / MANIFEST)
    if lora is not None:
        file = _add(model, spec, lora)
        identity |= {"lora": lora.resolve().name, "lora_sha256": digest_of(file)}
    sampling, source = spec.sampling(loaded.base), Source(spec.kind, loaded.base)
    return Opened(model, source, sampling, wanted, loaded.stage != "released", identity)


def tiling(codec: Codec) -> Callable[[], object]:
    """The function of a codec that makes it decode a part of a frame at a time. Raises UserError where it has none."""
    if (tile := getattr(codec, "use_tiling", None)) is None:
        raise UserError(f"--vae-tiling: {type(codec).__name__} decodes whole frames alone")
    return tile


def digest_of(file: Path) -> str:
    """sha256 of a file, 32 hex digits. Raises UserError where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def wanted_size(own: Size | None, frames: int | None, size: tuple[int, int] | None) -> Size:
    """The size asked for, with the model's own frames or (height, width) for None. Raises UserError without one."""
    if own is None and (frames is None or size is None):
        raise UserError("--frames and --size: this model has no size of its own: give both")
    return (frames or own[0], *(size or own[1:])) if own else (frames, *size)  # type: ignore[misc, return-value]


def _check_size(model: WorldModel, size: Size, outline: Outline) -> None:
    """Raises UserError unless the codec takes the frames, and the transformer's patches the sides."""
    _, height, width = outline.token_stride
    try:
        outline.check_size(size)
        check_size(size, (model.codec.temporal_stride, height, width))
    except ValueError as error:
        raise UserError(f"--frames {size[0]} --size {size[1]}x{size[2]}: {error}") from None


def _add(model: WorldModel, spec: ModelSpec, lora: Path) -> Path:
    """Adds a LoRA under the name of the policy's, with which geometry is not read; its file."""
    transformer = model.backbone.transformer
    if POLICY in adapter_names(transformer):
        raise UserError(
            f"--lora {lora}: this model has a LoRA {POLICY} already: name the model of an earlier stage as --model"
        )
    if not lora.is_dir():
        raise UserError(f"--lora {lora}: no such folder: a LoRA is a folder with pytorch_lora_weights.safetensors")
    try:
        load_adapter(transformer, POLICY, lora, spec.rename_lora)
        return read_lora(lora, spec.rename_lora, weights=False)[0]
    except (ValueError, UserError) as error:
        raise UserError(f"--lora: {error}") from None
