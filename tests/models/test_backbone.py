"""What every backbone does with its transformer's output: the velocity in numbers, the taps, the precision."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phys4d.models.backbone import Backbone, autocast, in_full_precision

NOISY = torch.tensor([[8.0, 4, 6], [8, 2, 1]]).view(2, 1, 3, 1, 1)  # two clips of three latent frames
OUTPUT = torch.tensor([[9.0, 2, -4], [9, 8, 4]]).view(2, 1, 3, 1, 1)


class TwoBlocks(Backbone):
    """Two blocks, the second of which doubles; `evaluate` gives OUTPUT and notes what autocast is set to."""

    def __init__(self, *taps: int) -> None:
        super().__init__(nn.ModuleList([nn.Identity(), nn.Linear(1, 1, bias=False)]), taps)
        nn.init.constant_(self.blocks[1].weight, 2.0)  # type: ignore[arg-type]
        self.seen: list[tuple[bool, torch.dtype]] = []

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer

    def evaluate(self, noisy: Tensor, sigma: Tensor, text: Tensor, first: Tensor | None) -> Tensor:
        tokens = self.blocks[1](self.blocks[0](text))
        self.seen.append((torch.is_autocast_enabled("cpu"), tokens.dtype))
        return OUTPUT.to(tokens.dtype)

    def use_attention(self, backend: str, group: Any = None) -> None: ...

    def explain_attention(self, tokens: int, text_tokens: int, device: torch.device) -> dict[str, Any]:
        return {}


def test_the_output_is_the_velocity_and_clean_is_where_it_points() -> None:
    """clean = noisy - sigma velocity: 4 - 0.5 x 2 and 6 + 0.5 x 4; 2 - 0.25 x 8 and 1 - 0.25 x 4."""
    velocity, clean, hidden = vars(TwoBlocks(1, 0)(NOISY, torch.tensor([0.5, 0.25]), torch.ones(2, 1, 1))).values()
    assert velocity.flatten().tolist() == [0, 2, -4, 0, 8, 4]
    assert clean.flatten().tolist() == [8, 3, 8, 8, 0, 0]
    assert [tokens.flatten().tolist() for tokens in hidden] == [[2, 2], [1, 1]]  # in the order of the taps


def test_a_model_that_draws_all_frames_has_a_velocity_and_a_loss_in_all() -> None:
    """clean = 8 - 0.5 x 9 and 8 - 0.25 x 9 on the first frames; the loss at noise = clean is the mean of squares."""
    backbone = TwoBlocks(0)
    backbone.held = 0
    prediction = backbone(NOISY, torch.tensor([0.5, 0.25]), torch.ones(2, 1, 1))
    assert prediction.velocity.flatten().tolist() == [9, 2, -4, 9, 8, 4]
    assert prediction.clean.flatten().tolist() == [3.5, 3, 8, 5.75, 0, 0]
    assert backbone.diffusion_loss(prediction, NOISY, NOISY, torch.ones(2)) == (81 + 4 + 16 + 81 + 64 + 16) / 6


def test_a_block_may_give_other_tokens_behind_the_videos() -> None:
    backbone = TwoBlocks(0)
    backbone.blocks[0].register_forward_hook(lambda module, given, output: (output, 0 * output), prepend=True)
    backbone.blocks[1].register_forward_pre_hook(lambda module, given: given[0][:1])
    (hidden,) = backbone(NOISY, torch.ones(2), torch.ones(2, 1, 1)).hidden
    assert hidden.tolist() == [[[1.0]], [[1.0]]]


@pytest.mark.parametrize("taps", [(2,), (-1,), (0, 2)])
def test_a_tap_of_no_block_is_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"taps \[{taps[-1]}\]: the transformer has blocks 0 to 1"):
        TwoBlocks(*taps)


def test_the_tapped_tokens_alone_are_those_of_a_whole_evaluation() -> None:
    hidden = TwoBlocks(1, 0).hidden(NOISY, torch.ones(2), torch.ones(2, 1, 1))
    assert [tokens.flatten().tolist() for tokens in hidden] == [[2, 2], [1, 1]]


def test_a_block_is_read_once_however_often_it_is_tapped() -> None:
    backbone = TwoBlocks(0)
    for taps in ((1,), (0, 1), (1,)):
        backbone.tap(taps)
    assert [len(block._forward_hooks) for block in backbone.blocks] == [1, 1]
    (hidden,) = backbone(NOISY, torch.ones(2), torch.ones(2, 1, 1)).hidden
    assert hidden.flatten().tolist() == [2, 2]


def test_what_is_kept_in_full_precision_is_so_under_autocast() -> None:
    """1 + 2^-9 is 1 in bf16."""
    fine, one = torch.tensor([[1 + 2.0**-9]]), torch.ones(1, 1)
    with autocast("cpu", enabled=True):
        found = [forward(fine, one) for forward in (torch.matmul, in_full_precision(torch.matmul))]
    assert [(f.dtype, f.item()) for f in found] == [(torch.bfloat16, 1), (torch.float32, 1 + 2.0**-9)]


def test_precision_says_whether_the_transformer_is_evaluated_in_bf16() -> None:
    backbone = TwoBlocks(1)
    given = NOISY, torch.ones(2), torch.ones(2, 1, 1)
    results = [backbone(*given)]
    backbone.precision = "bf16"
    results.append(backbone(*given))
    assert backbone.seen == [(False, torch.float32), (True, torch.bfloat16)]
    assert {t.dtype for r in results for t in (r.velocity, r.clean, *r.hidden)} == {torch.float32}


def test_autocast_goes_on_and_off_without_a_cache_and_off_on_any_device() -> None:
    with autocast("cpu", enabled=True):
        assert torch.is_autocast_enabled("cpu") and not torch.is_autocast_cache_enabled()
        with autocast("cpu", enabled=False):
            assert not torch.is_autocast_enabled("cpu")
    with autocast("meta", enabled=False):  # of which torch knows no autocast
        assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(RuntimeError, match="meta"):
        autocast("meta", enabled=True)
