"""Wan2.1 as it was published: weights counted, noise levels number by number, and folders that are not whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from phys4d.engine.errors import UserError
from phys4d.models.config import ModelConfig
from phys4d.models.preflight import check_released as check_any
from phys4d.models.registry import MODELS
from phys4d.models.spec import default_shift
from phys4d.models.wan21.bare import TRANSFORMERS, bare
from phys4d.models.wan21.image import ImageEncoder, packed, packed_frames, unpacked
from phys4d.models.wan21.published import check_released
from phys4d.models.wan21.spec import SPEC

Change = Callable[[Path], object]
CONFIG = ModelConfig(kind="wan21", taps=(0,))
SIZES = {(81, 480, 832): 3.0, (49, 832, 480): 3.0, (81, 720, 1280): 5.0, (81, 1280, 720): 5.0}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("wan2.1-t2v-1.3b", 1_418_996_800),
        ("wan2.1-t2v-14b", 14_288_491_584),
        ("wan2.1-i2v-14b-480p", 16_394_878_784),
        ("wan2.1-i2v-14b-720p", 16_394_878_784),
    ],
)
def test_the_published_configurations_have_the_published_number_of_weights(name: str, count: int) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(TRANSFORMERS[name])
    assert sum(parameter.numel() for parameter in transformer.parameters()) == count


def test_the_published_models_are_known_by_name() -> None:
    assert SPEC.released == tuple(TRANSFORMERS)
    for name in SPEC.released:
        found = bare(CONFIG, name)
        parts, image = found.build(1, (0,), 0), "i2v" in name
        assert found.layers == (30 if name.endswith("1.3b") else 40) and found.token_stride == (4, 16, 16)
        assert (parts.text.tokens, parts.codec.channels, parts.codec.image_apart) == (512, 16, image)
        assert all(parameter.is_meta for parameter in (*parts.backbone.parameters(), *parts.codec.parameters()))
        if image:  # 257 CLIP tokens of 1280 numbers fill 3.3 latent frames of 16 x 60 x 104
            assert sum(p.numel() for p in parts.codec.image.parameters()) == 630_766_080
            assert parts.codec.image_frames((13, 60, 104)) == 13 + 4
        rows = 720 if name.endswith("720p") else 480
        assert SPEC.sampling(name).size == (81, rows, {480: 832, 720: 1280}[rows])


@pytest.mark.parametrize(("size", "shift"), SIZES.items())
@pytest.mark.parametrize("steps", [10, 50])
def test_noise_levels_and_timesteps_are_those_of_diffusers(
    wan21: Path, size: tuple[int, int, int], shift: float, steps: int
) -> None:
    """Number by number, those of diffusers' scheduler with the shift that its pipelines advise for the resolution."""
    stock = UniPCMultistepScheduler.from_pretrained(wan21 / "scheduler", flow_shift=shift)
    stock.set_timesteps(steps)
    outline = SPEC.outline(CONFIG, wan21)
    assert default_shift(outline, size) == default_shift(bare(CONFIG, wan21), size) == shift
    sampling = SPEC.sampling(wan21)
    assert sampling.scheduler is not None
    own = sampling.scheduler(default_shift(outline, size))
    own.set_timesteps(steps)
    assert own.timesteps.tolist() == stock.timesteps.tolist()
    assert own.sigmas.tolist() == stock.sigmas.tolist()
    ours = SPEC.load(wan21, (0,)).backbone.sigmas(steps, default_shift(outline, size))
    assert ours[1:].tolist() == stock.sigmas[1:].tolist() and ours[0] == 1


def test_other_sizes_take_the_shift_of_the_folder(wan21: Path, tmp_path: Path) -> None:
    root = shutil.copytree(wan21, tmp_path / "wan21")
    for shift in (3.0, 7.0):
        setting("scheduler/scheduler_config.json", flow_shift=shift)(root)
        outline = SPEC.outline(CONFIG, root)
        assert default_shift(outline, (49, 704, 1280)) == outline.shift == shift
        assert default_shift(outline, (49, 480, 832)) == 3.0
    shutil.rmtree(root / "scheduler")
    assert default_shift(SPEC.outline(CONFIG, root), (49, 704, 1280)) == 3.0


def test_steps_guidance_and_size_are_those_of_the_stock_pipelines(wan21: Path) -> None:
    from inspect import signature

    sampling, outline = SPEC.sampling(wan21), SPEC.outline(CONFIG, wan21)
    for pipeline in (WanPipeline, WanImageToVideoPipeline):
        wanted = {name: p.default for name, p in signature(pipeline.__call__).parameters.items()}
        assert (outline.steps, sampling.guidance) == (wanted["num_inference_steps"], wanted["guidance_scale"])
        assert sampling.size == tuple(wanted[key] for key in ("num_frames", "height", "width"))
    assert sampling.solver == "unipc"


def test_each_wan_is_taken_for_what_it_is(wan21: Path, released: Path, tmp_path: Path) -> None:
    for name, root, kind in (("two", released, "wan"), ("one", wan21, "wan21")):
        bare = shutil.copytree(root, tmp_path / name, ignore=shutil.ignore_patterns("model_index.json"))
        for path in (root, bare):
            with pytest.raises(UserError, match=f'set model.kind = "{kind}"'):
                check_any(path, ModelConfig())
            assert SPEC.recognises(path) == (kind == "wan21")
    assert check_any(wan21, CONFIG).channels == 4
    with pytest.raises(UserError, match='for Wan2.1, with one per clip, set model.kind = "wan21"'):
        check_any(wan21, ModelConfig(kind="wan", taps=(0,)))
    with pytest.raises(UserError, match='model.kind: "wan21", but .*: set model.kind = "wan"'):
        check_any(released, CONFIG)


def setting(file: str, **values: Any) -> Change:
    """Sets keys of a JSON file."""
    return lambda root: (root / file).write_text(json.dumps(json.loads((root / file).read_text()) | values))


def without(file: str, name: str) -> Change:
    return lambda root: save_file({k: t for k, t in load_file(root / file).items() if k != name}, root / file)


TRANSFORMER, CLIP = "transformer/config.json", "image_encoder/config.json"
CLIP_WEIGHTS = "image_encoder/model.safetensors"
NORM = "encoder.layers.1.layer_norm1.weight"
FAULTS: list[tuple[Change, str]] = [
    (
        setting(TRANSFORMER, _class_name="LTXVideoTransformer3DModel"),
        "{root}/transformer/config.json: _class_name: expected WanTransformer3DModel, got LTXVideoTransformer3DModel: "
        "only Wan2.1 is taken",
    ),
    (lambda root: sorted((root / "transformer").glob("*-of-*"))[1].unlink(), "cannot be read (No such file or"),
    (lambda root: shutil.rmtree(root / "image_encoder"), "{root}: no image_encoder: expected the diffusers layout"),
    (lambda root: shutil.rmtree(root / "image_processor"), "{root}: no image_processor: expected the diffusers layout"),
    (lambda root: (root / CLIP_WEIGHTS).unlink(), "{root}/image_encoder/model.safetensors: no such file: image_enc"),
    (without(CLIP_WEIGHTS, NORM), NORM + ", which CLIPVisionModel of its config.json has"),
    (setting(CLIP, architectures=["SiglipVisionModel"]), "architectures: expected CLIPVisionModel, got SiglipVision"),
    (setting(TRANSFORMER, image_dim=32), ".norm1.weight is [16], WanTransformer3DModel of its config.json takes [32]"),
    (
        lambda root: (root / "image_processor" / "preprocessor_config.json").unlink(),
        "{root}/image_processor/preprocessor_config.json: ",
    ),
    (setting(TRANSFORMER, in_channels=4), "patch_embedding.weight is [48, 12, 1, 2, 2], WanTransformer3DModel of its"),
    (lambda root: (root / "transformer_2").mkdir(), "{root}/transformer_2: two experts (Wan2.2-A14B): only models of"),
    (setting("model_index.json", boundary_ratio=0.9), "{root}/model_index.json: two experts (Wan2.2-A14B): only"),
    (setting("model_index.json", _class_name="WanVACEPipeline"), "expected WanPipeline, got WanVACEPipeline: only Wan"),
    (setting("vae/config.json", z_dim=8), "{root}/vae/config.json: latents_mean: 4 numbers for 8 channels"),
]


@pytest.mark.parametrize("wan21", ["image"], indirect=True)
@pytest.mark.parametrize(("change", "line"), FAULTS, ids=[line[:60] for _, line in FAULTS])
def test_what_is_not_a_whole_model_is_one_line(wan21: Path, tmp_path: Path, change: Change, line: str) -> None:
    root = shutil.copytree(wan21, tmp_path / "wan21")
    check_released(root)
    change(root)
    with pytest.raises(UserError) as refused:
        check_released(root)
    text = str(refused.value)
    assert line.format(root=root) in text and "\n" not in text and text.startswith(str(root))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"in_channels": 36, "image_dim": None, "added_kv_proj_dim": None}, "takes 36 channels and gives 4, where the"),
        ({"image_dim": 16, "added_kv_proj_dim": 48}, "and gives 4, where the vae has 4: Wan2.1 takes 12 and CLIP tok"),
        ({"in_channels": 12, "image_dim": 16}, "added_kv_proj_dim: none, but image_dim 16"),
        (
            {"in_channels": 12, "image_dim": 16, "added_kv_proj_dim": 48, "pos_embed_seq_len": 10},
            "pos_embed_seq_len: 10: two images (FLF2V) are not taken",
        ),
    ],
)
@pytest.mark.parametrize("wan21", ["text"], indirect=True)
def test_other_ways_to_read_an_image_are_refused(
    wan21: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    root = shutil.copytree(wan21, tmp_path / "wan21")
    config = WanTransformer3DModel.load_config(root / "transformer")
    shutil.rmtree(root / "transformer")
    with torch.random.fork_rng(devices=[]):
        WanTransformer3DModel.from_config(config | changes).save_pretrained(root / "transformer")
    with pytest.raises(UserError) as refused:
        check_released(root)
    assert line in str(refused.value)


@pytest.mark.parametrize("wan21", ["image"], indirect=True)
def test_an_image_encoder_with_the_published_names_is_read(wan21: Path, tmp_path: Path) -> None:
    """Published files name its tensors after `vision_model.`, which the present class leaves out."""
    root = shutil.copytree(wan21, tmp_path / "wan21")
    weights = load_file(root / CLIP_WEIGHTS)
    plain = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    image, found = torch.rand(2, 3, 1, 40, 32) * 2 - 1, []
    for before in ("vision_model.", ""):
        save_file({before + name: t for name, t in plain.items()}, root / CLIP_WEIGHTS, {"format": "pt"})
        check_released(root)
        found.append(ImageEncoder(root)(image))
    assert torch.equal(found[0], found[1]) and found[0].shape == (2, 5, 16)
    torch.testing.assert_close(found[0], ImageEncoder(wan21)(image))


@pytest.mark.parametrize("wan21", ["image"], indirect=True)
@pytest.mark.parametrize(
    ("change", "part"),
    [
        (setting("image_processor/preprocessor_config.json", resample=2), "image processor"),
        (setting(CLIP, hidden_act="relu"), "image encoder"),
    ],
)
def test_a_cache_depends_on_the_image_encoder(wan21: Path, tmp_path: Path, change: Change, part: str) -> None:
    root, encoders = shutil.copytree(wan21, tmp_path / "wan21"), MODELS["wan21"].encoders
    assert encoders is not None
    change(root)
    before, after = encoders.origin(wan21), encoders.origin(root)
    assert set(before) == {"codec", "text encoder", "tokenizer", "image encoder", "image processor"}
    assert [name for name in before if before[name] != after[name]] == [part]


@pytest.mark.parametrize(("tokens", "frames"), [((5, 16), 4), ((5, 12), 3), ((1, 1), 1), ((3, 32), 4)])
def test_latents_and_tokens_come_back_as_they_were_packed(tokens: tuple[int, int], frames: int) -> None:
    """Tokens fill frames of 2 x 2 x 6 = 24 numbers one after the other, so that each clip has its own in order."""
    draw = torch.Generator().manual_seed(0)
    latents, numbers = torch.randn(2, 2, 3, 2, 6, generator=draw), torch.randn(2, *tokens, generator=draw)
    both = packed(latents, numbers)
    assert packed_frames(tokens, (2, 3, 2, 6)) == frames and both.shape == (2, 2, 3 + frames, 2, 6)
    found = unpacked(both, 3, tokens)
    assert torch.equal(found[0], latents) and torch.equal(found[1], numbers)
    assert torch.equal(both[:, :, 3].flatten(1)[:, : tokens[0] * tokens[1]], numbers.flatten(1)[:, :24])
