"""What can be said of a model before it is loaded: milliseconds, from configurations and headers of files alone."""

from pathlib import Path

from phys4d.engine import integrity
from phys4d.engine.errors import UserError
from phys4d.models.card import CARD, base_of, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.diffusers_folder import on_meta, shapes_of
from phys4d.models.headers import WeightsFault, check_fits, read_header
from phys4d.models.heads import GeometryHeads
from phys4d.models.hub_digests import check_downloaded
from phys4d.models.interface import Grid
from phys4d.models.lora_file import check_fits_transformer, read_lora
from phys4d.models.registry import MODELS, published
from phys4d.models.spec import Outline

HEADS = Path("heads") / "model.safetensors"


def check_model(folder: Path) -> Outline:
    """UserError, one line, unless a model folder that a stage wrote is whole, with the folder of its backbone.

    Looked at are the card, the backbone (`ModelSpec.outline`), that heads and adapters are stored whole and fit it, and
    the sizes of all files.
    """
    card = read_card(folder)
    if card.format != 1:
        raise UserError(f"{folder / CARD}: format: {card.format}: this version of phys4d reads format 1")
    spec, config = MODELS[card.model.kind], card.model
    outline = spec.outline(config, base_of(card, folder))
    check_taps(config.taps, outline, f"{folder / CARD}: model.taps")
    grid = Grid(*card.size, outline.token_stride)
    heads = on_meta(
        folder / CARD,
        lambda: GeometryHeads(config.heads, outline.width, len(config.taps), outline.channels, grid),
    )
    try:
        stored, _ = read_header(folder / HEADS)
        check_fits(stored, dict.fromkeys(stored, folder / HEADS), shapes_of(heads), f"the heads of {CARD}")
        for name in card.adapters:
            lora = read_lora(folder / "adapters" / name, spec.rename_lora, weights=False)
            check_fits_transformer(*lora, outline.transformer)
    except (WeightsFault, ValueError) as error:
        reason = error.brief if isinstance(error, WeightsFault) else error
        raise UserError(f"{folder}: weights do not load ({reason}): delete it and resume its run") from None
    check_files(folder, hashed=False)
    return outline


def check_files(folder: Path, *, hashed: bool) -> None:
    """UserError unless the files of a model folder, and those of the folder of its backbone, are as they were written
    or, where a digest is known, published; hashed: compare digests, which reads them whole, and not sizes alone."""
    base = base_of(read_card(folder), folder)
    for part in dict.fromkeys((folder, base)):
        if (part / CARD).is_file():
            integrity.check(part, "copy it again, or remove the folder and --resume its run", hashed=hashed)
        elif hashed:
            check_downloaded(part)


def check_released(folder: Path, model: ModelConfig) -> Outline:
    """What the released model in a folder is; UserError, one line, unless it is whole and of the kind asked for."""
    asked = MODELS[model.kind]
    found = next((spec for spec in published() if spec.recognises(folder)), None)
    if asked.title and (found is None or asked.recognises(folder)):
        found = asked
    if found is None:
        titles = ", ".join(f"{spec.title}" for spec in published())
        raise UserError(f"{folder}: is no model folder that a stage wrote, and no published model ({titles})")
    if found is not asked:
        raise UserError(
            f'model.kind: "{model.kind}", but {folder} is a released model of the kind of {found.title}: '
            f'set model.kind = "{found.kind}"'
        )
    outline = asked.outline(model, folder)
    check_taps(model.taps, outline, "model.taps")
    return outline


def check_new(model: ModelConfig) -> Outline:
    """What a new model of these settings is; UserError where there is none of this kind."""
    outline = MODELS[model.kind].outline(model, None)
    check_taps(model.taps, outline, "model.taps")
    return outline


def check_taps(taps: tuple[int, ...], outline: Outline, where: str) -> None:
    """UserError unless the transformer in `outline` has the blocks `taps`; the message begins with `where`."""
    if max(taps) >= outline.layers:
        raise UserError(f"{where}: {list(taps)}: the transformer has blocks 0 to {outline.layers - 1}")
