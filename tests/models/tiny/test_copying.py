"""The copy gate: shut it is the first frame, open it moves patches of it to where the spectra say."""

import math

import torch

from phys4d.models.tiny.copying import CopyGate


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


def test_it_takes_a_gate_per_pixel_and_24_complex_waves_for_each_of_four_frames() -> None:
    gate = CopyGate()
    assert CopyGate.channels == 64 + 4 * 48 and gate.waves.shape == (24, 2) and not gate.state_dict()
    length = 2 * math.pi / gate.waves.norm(dim=1)
    torch.testing.assert_close(length, torch.logspace(math.log10(8), math.log10(160), 24), rtol=1e-4, atol=1e-3)
    angle = torch.atan2(gate.waves[:, 1], gate.waves[:, 0])  # half of the circle: the other half is the same wave
    assert ((angle >= 0) & (angle < math.pi)).all() and angle.max() - angle.min() > 2
    # trained models know these waves, which are not saved with them
    known = [[0.00923622, 0.78534389], [-0.03624069, 0.01512410]]
    torch.testing.assert_close(gate.waves[[0, -1]], torch.tensor(known), rtol=1e-4, atol=1e-6)


def test_patches_are_copied_by_attention_over_waves() -> None:
    """One block by hand: its spectrum, moved by its own place, against the phases of all patches two pixels apart."""
    gate, draw = CopyGate(), torch.Generator().manual_seed(1)
    frames = torch.rand(2, 3, 12, 20, generator=draw, dtype=torch.float64)
    spectra = torch.randn(2, 4 * 48, 2, 3, 5, generator=draw, dtype=torch.float64)
    out = gate.moved(spectra, frames)
    assert out.shape == (2, 2, 3, 5, 3, 64)
    waves = gate.waves.double().tolist()
    for clip, t, frame, row, column in ((0, 0, 0, 0, 0), (0, 1, 3, 2, 4), (1, 0, 2, 1, 3), (1, 1, 1, 2, 0)):
        amplitudes = [
            complex(0.25 + float(spectra[clip, 48 * frame + k, t, row, column]),
                    float(spectra[clip, 48 * frame + 24 + k, t, row, column]))
            for k in range(24)
        ]  # fmt: skip
        shares, total = torch.zeros(3, 4, 4, dtype=torch.float64), 0.0
        for y in range(0, 9, 2):
            for x in range(0, 17, 2):
                score = 0.0
                for (wx, wy), a in zip(waves, amplitudes, strict=True):
                    phase = wx * (x - 4 * column) + wy * (y - 4 * row)
                    score += (a * complex(math.cos(phase), math.sin(phase))).real
                total += math.exp(score)
                shares += math.exp(score) * frames[clip, :, y : y + 4, x : x + 4]
        ours = out[clip, t, row, column].view(3, 4, 4, 4)[:, frame]
        torch.testing.assert_close(ours, shares / total)
