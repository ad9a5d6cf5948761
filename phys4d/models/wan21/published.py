"""What a released folder of Wan2.1 holds, looked at without reading weights."""

from pathlib import Path
from typing import Any

from phys4d.engine.errors import UserError
from phys4d.models.diffusers_folder import (
    PARTS,
    check_layout,
    check_numbers,
    check_text,
    check_unquantised,
    on_meta,
    shapes_of,
)
from phys4d.models.headers import check_fits, read_json, read_weights
from phys4d.models.wan.published import Published, check_transformer, check_vae, read_index
from phys4d.models.wan21.schedule import published_shift

TAKEN = "Wan2.1"
LAYOUT = f"expected the diffusers layout of {TAKEN}"
IMAGE_PARTS = (*PARTS, "image_encoder", "image_processor")


def reads_image(transformer: Any) -> bool:
    """Whether a transformer, by its whole configuration, is one of image to video."""
    return transformer["image_dim"] is not None


def check_released(folder: Path, *, text_weights: bool = True) -> Published:
    """UserError, one line, unless `folder` is a whole Wan2.1 in diffusers' layout, of text or of image to video.

    Looked at are class names, configurations, that every tensor they ask for is stored whole with its shape, and the
    files of tokenizer and image processor. text_weights: whether the text encoder's weights must be there.
    """
    check_layout(folder, LAYOUT)
    index = read_index(folder / "model_index.json", TAKEN)
    if index is not None and index.get("expand_timesteps") is True:
        raise UserError(
            f"{folder / 'model_index.json'}: expand_timesteps: true: {TAKEN} has one timestep for each clip: "
            'set model.kind = "wan"'
        )
    transformer = check_transformer(folder / "transformer", taken=TAKEN, layout=LAYOUT, image=True)
    vae = check_vae(folder / "vae", taken=TAKEN, layout=LAYOUT)
    _check_channels(folder, transformer.config, vae.config)
    if reads_image(transformer.config):
        check_layout(folder, LAYOUT, IMAGE_PARTS)
        check_image_encoder(folder, transformer.config.image_dim)
    check_text(folder, "UMT5", transformer.config.text_dim, LAYOUT, weights=text_weights)
    return Published(transformer, vae, published_shift(folder))


def _check_channels(folder: Path, transformer: Any, vae: Any) -> None:
    """UserError unless the transformer takes noisy latents, or with them a mask and the latents of an image."""
    path, latents = folder / "transformer" / "config.json", vae.z_dim
    image = reads_image(transformer)
    expected = 2 * latents + vae.scale_factor_temporal if image else latents
    if (transformer.in_channels, transformer.out_channels) != (expected, latents):
        raise UserError(
            f"{path}: takes {transformer.in_channels} channels and gives {transformer.out_channels}, where the vae has "
            f"{latents}: {TAKEN} takes {expected}{' and CLIP tokens' if image else ' without image_dim'}"
        )
    if image and transformer.added_kv_proj_dim is None:
        raise UserError(f"{path}: added_kv_proj_dim: none, but image_dim {transformer.image_dim}: download it again")
    if transformer.pos_embed_seq_len is not None:
        raise UserError(f"{path}: pos_embed_seq_len: {transformer.pos_embed_seq_len}: two images (FLF2V) are not taken")


def check_image_encoder(folder: Path, width: int) -> None:
    """UserError unless image_encoder/ of a folder is a whole CLIPVisionModel whose tokens have `width` numbers, and
    image_processor/ has its settings."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    encoder, path = folder / "image_encoder", folder / "image_encoder" / "config.json"
    table = read_json(path)
    names = table.get("architectures") or [table.get("model_type")]
    if "CLIPVisionModel" not in names:
        raise UserError(f"{path}: architectures: expected CLIPVisionModel, got {', '.join(map(str, names))}")
    check_unquantised(path, table)
    check_numbers(path, table)
    module = on_meta(path, lambda: CLIPVisionModel(CLIPVisionConfig.from_dict(table)))
    if module.config.hidden_size != width:
        raise UserError(
            f"{folder}: the image encoder gives tokens of {module.config.hidden_size} numbers, the transformer takes "
            f"{width}: are they of one model?"
        )
    stored, files = read_weights(encoder, "model", LAYOUT)
    before = "vision_model." if any(name.startswith("vision_model.") for name in stored) else ""
    shapes = {before + name.removeprefix("vision_model."): shape for name, shape in shapes_of(module).items()}
    check_fits(stored, files, shapes, "CLIPVisionModel of its config.json")
    read_json(folder / "image_processor" / "preprocessor_config.json")
