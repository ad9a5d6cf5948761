"""The copy gate: shut it is the first frame, open it moves patches of it to where the spectra say."""

import torch

from phys4d.models.copying import CopyGate


def outputs(gate: CopyGate, logit: float, displacement: tuple[float, float]) -> torch.Tensor:
    """Transformer outputs [1, 256, 3, 8, 8] that ask every block for the patch at this displacement (x, y)."""
    phase = gate.waves @ torch.tensor(displacement)
    spectra = torch.zeros(1, 4, 2, len(phase), 3, 8, 8)
    spectra[:, :, 0] = (2 * phase.cos() - 0.25).view(1, 1, -1, 1, 1, 1)
    spectra[:, :, 1] = (-2 * phase.sin()).view(1, 1, -1, 1, 1, 1)
    return torch.cat([torch.full((1, 64, 3, 8, 8), logit), spectra.view(1, -1, 3, 8, 8)], 1)


def test_shut_it_repeats_the_first_frame_and_always_keeps_it() -> None:
    gate, video = CopyGate(), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    first = gate.codec.encode(video)[:, :, :1]
    out = gate.codec.decode(gate(outputs(gate, -30.0, (8.0, 0.0)), first))
    torch.testing.assert_close(out, video[:, :, :1].expand_as(out), atol=1e-5, rtol=0)
    assert torch.equal(gate(outputs(gate, 30.0, (8.0, 0.0)), first)[:, :, :1], first)


def test_open_it_moves_the_picture_by_the_displacement() -> None:
    gate, video = CopyGate(), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    first = gate.codec.encode(video)[:, :, :1]
    out = gate.codec.decode(gate(outputs(gate, 30.0, (6.0, -4.0)), first))
    moved, source = out[0, :, 1:, 8:24, 4:20], video[0, :, :1, 4:20, 10:26]
    assert (moved - source).abs().mean() < 0.05 * source.abs().mean()


def test_where_a_block_copies_from_can_be_learned() -> None:
    gate, video = CopyGate(), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    first = gate.codec.encode(video)[:, :, :1]
    output = outputs(gate, 0.0, (2.0, 2.0)).requires_grad_(True)
    gate(output, first).square().sum().backward()
    assert output.grad is not None and (output.grad[:, :, 1:].abs() > 0).float().mean() > 0.9
