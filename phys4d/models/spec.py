"""What a kind of model is to the rest of the program: one `ModelSpec`, listed in `phys4d.models.registry`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from phys4d.models.backbone import Backbone
from phys4d.models.interface import Codec, TextEncoder

Size = tuple[int, int, int]
Published = Path | str | None
"""A folder in the diffusers layout, or the name of a published model of a kind; None for neither."""


class Settings(Protocol):
    """The keys of the run file's table [model] that decide on the size of a new model."""

    @property
    def width(self) -> int: ...

    @property
    def layers(self) -> int: ...


@dataclass(frozen=True)
class Outline:
    """What a model is, known before a weight is read.

    transformer: on torch's meta device; layers: its blocks; width: channels of a hidden token; heads: of its
    self-attention; channels: of the latents; token_stride: frames, rows and columns of pixels under one token; steps,
    shift: how it is sampled by default; check_size: ValueError for clips (frames, height, width) that are not taken
    though they may fit token_stride, asked first, since what it proposes is taken; shift_of: the shift of clips of a
    size, where it depends on it.
    """

    transformer: nn.Module
    layers: int
    width: int
    heads: int
    channels: int
    token_stride: tuple[int, int, int]
    steps: int
    shift: float
    check_size: Callable[[Size], object] = lambda size: None
    shift_of: Callable[[Size], float] | None = None


@dataclass(frozen=True)
class Parts:
    """A backbone with its codec and its text encoder.

    weights: folder in the diffusers layout from which the transformer's weights are still to be read, when it is on its
    device and sharded; None if it has them.
    """

    backbone: Backbone
    codec: Codec
    text: TextEncoder
    weights: Path | None = None


@dataclass(frozen=True)
class Bare:
    """A model that is built without values, to be counted.

    layers: its blocks; token_stride, steps, shift, check_size, shift_of: as in `Outline`; build: backbone, codec and
    text encoder with so many blocks and these taps, all parameters on torch's meta device or drawn from a seed; period:
    after how many blocks they are alike again, of which `layers` is a multiple and `build` gets one.
    """

    layers: int
    token_stride: tuple[int, int, int]
    steps: int
    shift: float
    build: Callable[[int, tuple[int, ...], int], Parts]
    check_size: Callable[[Size], object] = lambda size: None
    shift_of: Callable[[Size], float] | None = None
    period: int = 1


def default_shift(model: Outline | Bare, size: Size) -> float:
    """How far sigmas of clips of a size (frames, height, width) are moved towards noise, where a run names no shift."""
    return model.shift if model.shift_of is None else model.shift_of(size)


@dataclass(frozen=True)
class Encoders:
    """What encodes clips of a kind of model, without its transformer.

    build: codec and text encoder from a folder in the diffusers layout, None for a kind whose encoders have no weights.
    origin: of such a folder, a text for each part that latents and tokens depend on ("codec", "text encoder",
        "tokenizer"), equal for equal parts: a digest of weights and configuration. A part whose weights are not there
        is left out. UserError where a file cannot be read.
    check: UserError unless the weights of both are there, which `ModelSpec.outline` does not ask of the text encoder.
    check_prompt: ValueError for a prompt of more tokens than such a text encoder takes, which would be cut off.
    """

    build: Callable[[Path | None], tuple[Codec, TextEncoder]]
    origin: Callable[[Path | None], Mapping[str, str]]
    check: Callable[[Path | None], object] = lambda folder: None
    check_prompt: Callable[[Any, str], object] = lambda encoder, prompt: None


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled where nothing else is asked for, beside its steps and shift (`Outline`).

    solver: a name in `phys4d.generate.solvers`. guidance: scale of classifier-free guidance, 1 for none. size: (frames,
    height, width) of the published clips; None where the model folder alone says it. scheduler: from the shift,
    diffusers' scheduler of that solver as it was published, whose timesteps the transformer is given; None: the solver
    visits `Backbone.sigmas`.
    """

    solver: str = "euler"
    guidance: float = 1.0
    size: tuple[int, int, int] | None = None
    scheduler: Callable[[float], Any] | None = None


@dataclass(frozen=True)
class LoraDefaults:
    """The adapter of a stage whose table does not say: its modules are `Backbone.lora_targets`. rank: of its factors;
    alpha: their product counts alpha / rank times."""

    rank: int = 32
    alpha: float = 32


def _as_they_are(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


@dataclass(frozen=True)
class ModelSpec:
    """A kind of backbone with its codec and text encoder: one folder beside this file.

    kind: its name, the value of `kind` in the run file's table [model].
    title: the published model that is taken, for messages; None for a kind without published weights.
    outline: what a model is, from a folder in the diffusers layout, or, for None, as a new model of these settings.
        UserError, one line, where the folder does not hold a whole model of this kind; no weight is read.
    load: backbone, codec and text encoder of such a folder, the transformer's parameters still on meta; taps as in
        `Backbone`.
    create: a new model with weights drawn from a seed; None where a model only starts from published weights.
    recognises: whether a folder looks like published weights of this kind.
    check_caption: ValueError for a caption that the text encoder cannot take whole.
    bare: a model without values, from the configurations in such a folder alone, or of one of the names `released`; for
        None a new model, or the first of these. None for a kind whose runs cannot be counted.
    released: names of published models, of which `bare` and `sampling` know without a folder.
    encoders: its codec and text encoder alone; None for a kind whose latents and tokens cannot be cached.
    sampling: how a model of such a folder, or of one of the names `released`, is sampled; None for a new one.
    lora: rank and alpha of the adapters of `finetune` and `reinforce`; default: the rank of the paper's authors, and
        that alpha.
    rename_lora: tensors of a LoRA file at this path, from key names that other programs use to those of the
        transformer's modules. ValueError where they are not of this kind of model.
    learned_no_caption: whether the backbone has learned what stands for no caption (`Backbone.unconditional`).
    divides_frames: whether ranks that divide the tokens of a clip divide those of each of its frames.
    comfyui_name: the name, in LoRA files for ComfyUI and musubi, of a module of the transformer. ValueError where it
        has none; None for a kind for which no such layout is written.
    """

    kind: str
    title: str | None
    outline: Callable[[Settings, Path | None], Outline]
    load: Callable[[Path, tuple[int, ...]], Parts]
    create: Callable[[Settings, tuple[int, ...], int], Parts] | None = None
    recognises: Callable[[Path], bool] = lambda folder: False
    check_caption: Callable[[str], object] = lambda caption: None
    bare: Callable[[Settings, Published], Bare] | None = None
    released: tuple[str, ...] = ()
    encoders: Encoders | None = None
    sampling: Callable[[Published], Sampling] = lambda source: Sampling()
    lora: LoraDefaults = LoraDefaults()
    rename_lora: Callable[[Path, dict[str, Tensor]], dict[str, Tensor]] = _as_they_are
    learned_no_caption: bool = False
    divides_frames: bool = False
    comfyui_name: Callable[[str], str] | None = None
