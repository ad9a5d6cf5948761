"""Captions to tokens by UMT5, the text encoder of Wan."""

from pathlib import Path

from phys4d.models.t5 import TextOfT5

TOKENS = 512


class UMT5Encoder(TextOfT5):
    """The text encoder of Wan: transformers' UMT5EncoderModel, in bf16 as published.

    Captions become the tokens that diffusers' WanPipeline makes of the same prompt: cleaned by its `prompt_clean`
    (mojibake mended by ftfy, HTML entities resolved twice, white space collapsed), then cut to `tokens`; zeros behind
    them are what the transformer takes.
    """

    family = "UMT5"

    def __init__(self, text_encoder: Path, tokenizer: Path, tokens: int = TOKENS) -> None:
        super().__init__(text_encoder, tokenizer, tokens)

    def written(self, caption: str) -> str:
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        return prompt_clean(caption)
