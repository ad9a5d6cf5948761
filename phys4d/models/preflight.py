"""What can be said of a model before it is loaded: milliseconds, from configurations and headers of files alone."""

from pathlib import Path

from diffusers import WanTransformer3DModel

from phys4d.engine.errors import UserError
from phys4d.models.card import CARD, base_of, read_card
from phys4d.models.haar import HaarCodec
from phys4d.models.headers import WeightsFault, check_fits, read_header
from phys4d.models.heads import GeometryHeads
from phys4d.models.interface import Grid
from phys4d.models.lora_file import check_fits_transformer, read_lora
from phys4d.models.published import check_released, check_transformer, on_meta, shapes_of, token_stride

HEADS = Path("heads") / "model.safetensors"


def check_model(folder: Path) -> None:
    """UserError, one line, unless a model folder that a stage wrote is whole, with the folder of its backbone.

    Looked at are the card, the backbone (see `check_released`), and that heads and adapters are stored whole and fit
    it.
    """
    card = read_card(folder)
    if card.format != 1:
        raise UserError(f"{folder / CARD}: format: {card.format}: this version of phys4d reads format 1")
    base = base_of(card, folder)
    if card.model.kind == "tiny":
        transformer = check_transformer(base / "transformer")
        t, h, w = transformer.config.patch_size
        stride = HaarCodec.temporal_stride * t, HaarCodec.spatial_stride * h, HaarCodec.spatial_stride * w
        channels = HaarCodec.channels
    else:
        published = check_released(base)
        transformer, stride, channels = published.transformer, token_stride(base), published.vae.config.z_dim
    check_taps(card.model.taps, transformer, f"{folder / CARD}: model.taps")
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    grid, config = Grid(*card.size, stride), card.model
    heads = on_meta(folder / CARD, lambda: GeometryHeads(config.heads, width, len(config.taps), channels, grid))
    try:
        stored, _ = read_header(folder / HEADS)
        check_fits(stored, dict.fromkeys(stored, folder / HEADS), shapes_of(heads), f"the heads of {CARD}")
        for name in card.adapters:
            check_fits_transformer(*read_lora(folder / "adapters" / name, weights=False), transformer)
    except (WeightsFault, ValueError) as error:
        reason = error.brief if isinstance(error, WeightsFault) else error
        raise UserError(f"{folder}: weights do not load ({reason}): delete it and resume its run") from None


def check_taps(taps: tuple[int, ...], transformer: WanTransformer3DModel, where: str) -> None:
    """UserError unless the transformer has the blocks that are tapped; where: blamed."""
    layers = len(transformer.blocks)
    if max(taps) >= layers:
        raise UserError(f"{where}: {list(taps)}: the transformer has blocks 0 to {layers - 1}")
