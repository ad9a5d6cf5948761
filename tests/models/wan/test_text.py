"""UMT5: the tokens of WanPipeline, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from phys4d.engine.errors import UserError
from phys4d.models.wan.text import UMT5Encoder


@pytest.fixture(scope="module")
def encoder(released: Path) -> UMT5Encoder:
    return UMT5Encoder(released / "text_encoder", released / "tokenizer")


@pytest.mark.parametrize(
    "caption",
    [
        "a red ball falls", "a red &amp; ball falls", "a &amp;amp; ball", "  a red\n\tball\u00a0 falls ", "",
        "a &lt;red&gt; ball", "ball " * 600,
    ],
)  # fmt: skip
def test_umt5_gives_what_a_stock_pipeline_gives(encoder: UMT5Encoder, caption: str) -> None:
    """WanPipeline's own embedding of the same caption, in the dtype that its transformer takes."""
    none: dict[str, Any] = {"vae": None, "transformer": None, "scheduler": FlowMatchEulerDiscreteScheduler()}
    pipe = WanPipeline(tokenizer=encoder.tokenizer, text_encoder=encoder.model, **none)
    theirs, _ = pipe.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=512)
    ours = encoder([caption, "a ball"])
    assert encoder.model.dtype == theirs.dtype == torch.bfloat16 and ours.dtype == torch.float32
    torch.testing.assert_close(ours[:1], theirs.float())


def test_umt5_resolves_entities_and_ends_in_zeros(encoder: UMT5Encoder) -> None:
    assert torch.equal(encoder(["a &amp;#39; ball"]), encoder(["a ' ball"]))
    tokens = encoder(["a red ball falls", "a ball"])
    assert (tokens[0, 4:] == 0).all() and (tokens[1, 2:] == 0).all() and (tokens[0, :4] != 0).any(1).all()


def test_a_tokenizer_that_is_damaged_or_of_another_model_is_named(released: Path, tmp_path: Path) -> None:
    tokenizer = shutil.copytree(released / "tokenizer", tmp_path / "tokenizer")
    words = tokenizer / "tokenizer.json"
    table = json.loads(words.read_text())
    more = {f"word{i}": i for i in range(7, 20)}
    table["model"]["vocab"] |= more
    words.write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"tokenizer: 20 words, .*text_encoder has 16: are they of one model\?"):
        UMT5Encoder(released / "text_encoder", tokenizer)
    words.write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match=r"tokenizer: does not load \(.*\): download it again"):
        UMT5Encoder(released / "text_encoder", tokenizer)
