"""UMT5: the tokens of WanPipeline, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from tokenizers.processors import TemplateProcessing

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


def test_it_is_frozen_and_takes_the_tokens_that_the_tokenizer_adds(released: Path) -> None:
    encoder = UMT5Encoder(released / "text_encoder", released / "tokenizer")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    ending = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # as that of UMT5
    encoder.tokenizer.backend_tokenizer.post_processor = ending
    tokens = encoder(["a ball"])
    assert (tokens[0, :3] != 0).any(1).all() and (tokens[0, 3:] == 0).all()


def test_a_tokenizer_of_as_many_words_as_the_encoder_has_is_taken(
    write_released: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_released(tmp_path / "wan", words=" ".join(f"word{i}" for i in range(9)))
    encoder = UMT5Encoder(folder / "text_encoder", folder / "tokenizer")
    assert len(encoder.tokenizer) == encoder.model.config.vocab_size == 16


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
