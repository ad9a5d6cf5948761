"""The definitions of the depth losses against numpy, frame by frame, on clips of a few pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from phys4d.kernels.geometry.losses.depth_reference import KINDS, depth_reference, fit, trimmed

INVARIANCE = 0.7


def example(weighted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """predicted, target, valid, weight: 2 clips of 2 frames of 4 x 5 pixels; of the last frame one pixel is valid."""
    draw = torch.Generator().manual_seed(8)
    shape = (2, 2, 4, 5)
    target = 1 + torch.rand(shape, generator=draw, dtype=torch.float64)
    predicted = target * (1 + 0.5 * torch.rand(shape, generator=draw, dtype=torch.float64))
    valid = torch.rand(shape, generator=draw) < 0.8
    valid[1, 1] = False
    valid[1, 1, 2, 3] = True
    weight = 0.1 * torch.rand(shape, generator=draw, dtype=torch.float64) if weighted else None
    return predicted.where(valid, 0), target.where(valid, -9), valid, weight


def by_numpy(kind: str, per_clip: bool, weighted: bool, scales: int) -> list[float]:
    predicted, target, valid, weight = example(weighted)
    out = []
    for clip in range(2):
        p, d, m = predicted[clip].numpy(), target[clip].numpy(), valid[clip].numpy()
        w = np.ones_like(p) if weight is None else weight[clip].numpy()
        frames = [(p[m], d[m], w[m])]
        if kind != "log_l1" and not per_clip:
            frames = [(p[t][m[t]], d[t][m[t]], w[t][m[t]]) for t in range(2)]
        found = []
        for a, b, c in frames:
            g = np.log(a / b)
            if kind == "log_l1":
                found.append((c * abs(g)).sum() / c.sum())
            elif kind == "silog":
                found.append((c * g**2).sum() / c.sum() - INVARIANCE * ((c * g).sum() / c.sum()) ** 2)
            elif kind == "scale_shift":
                columns = np.stack([a, np.ones_like(a)], 1) * np.sqrt(c)[:, None]
                best = np.linalg.lstsq(columns, b * np.sqrt(c), rcond=None)[0]
                found.append((c * (best[0] * a + best[1] - b) ** 2).sum() / c.sum())
        if kind == "gradient":
            total = 0.0
            for k in range(scales):
                g = np.log(np.where(m, p, 1) / np.where(m, d, 1))[:, :: 2**k, :: 2**k]
                v = m[:, :: 2**k, :: 2**k]
                gaps = abs(np.diff(g, axis=1))[v[:, 1:] & v[:, :-1]].tolist()
                gaps += abs(np.diff(g, axis=2))[v[:, :, 1:] & v[:, :, :-1]].tolist()
                total += sum(gaps) / max(len(gaps), 1)
            found = [total]
        out.append(float(np.mean(found)))
    return out


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per_clip", [False, True])
@pytest.mark.parametrize("scales", [1, 3])
def test_each_loss_of_each_clip(per_clip: bool, weighted: bool, scales: int) -> None:
    everything = depth_reference(*example(weighted), per_clip, INVARIANCE, scales, 15)
    for at, kind in enumerate(KINDS):
        expected = torch.tensor(by_numpy(kind, per_clip, weighted, scales), dtype=torch.float64)
        alone = depth_reference(*example(weighted), per_clip, INVARIANCE, scales, 1 << at)
        torch.testing.assert_close(alone[at], expected)
        torch.testing.assert_close(everything[at], expected)
        assert (alone[[other for other in range(4) if other != at]] == 0).all()
    assert KINDS == ("log_l1", "silog", "scale_shift", "gradient")


def test_frames_and_clips_without_weight_do_not_count() -> None:
    predicted, target, valid, _ = example(False)
    valid[1] = False
    weight = torch.ones_like(predicted)
    weight[0, 1] = 0
    losses = depth_reference(predicted, target, valid, weight, False, INVARIANCE, 1, 7)
    assert (losses[:, 1] == 0).all()
    first = depth_reference(predicted[:1, :1], target[:1, :1], valid[:1, :1], None, False, INVARIANCE, 1, 7)
    torch.testing.assert_close(losses[:, 0], first[:, 0])


def test_a_prediction_without_contrast_is_fitted_by_the_mean() -> None:
    d, w = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    scale, shift = fit(torch.full_like(d, 4.0), d, w)
    assert scale.item() == 0 and shift.item() == 3.75
    scale, shift = fit(torch.tensor([1.0, 1.0, 1.0 + 1e-9], dtype=torch.float64), d, w)  # a contrast of 5e-19
    assert scale.item() > 1e8


@pytest.mark.parametrize("per_clip", [False, True])
@pytest.mark.parametrize(("trim", "dropped"), [(0.0, 0), (0.2, 1), (0.35, 1), (0.5, 2), (0.9, 4)])
def test_the_share_with_the_largest_residuals_is_left_out(per_clip: bool, trim: float, dropped: int) -> None:
    """Of five valid pixels in a row on a line, but for two: rounded, at least one stays."""
    p = torch.tensor([0.0, 1, 2, 3, 4, 9], dtype=torch.float64).view(1, 1, 1, 6).expand(1, 2, 1, 6)
    d = torch.tensor([1.0, 3, 5.5, 7, 12, 99], dtype=torch.float64).view(1, 1, 1, 6).expand(1, 2, 1, 6)
    valid = torch.ones(1, 2, 1, 6, dtype=torch.bool)
    valid[..., 5] = False
    kept = trimmed(p, d, valid, None, per_clip, trim)
    line = np.polyfit(p[0, 0, 0, :5].numpy(), d[0, 0, 0, :5].numpy(), 1)
    order = np.argsort(-abs(np.polyval(line, p[0, 0, 0, :5].numpy()) - d[0, 0, 0, :5].numpy()))
    expected = valid.clone()
    expected[..., order[:dropped].copy()] = False
    assert torch.equal(kept, expected)
    assert not trimmed(p, d, torch.zeros_like(valid), None, per_clip, trim).any()


@pytest.mark.parametrize("per_clip", [False, True])
def test_the_first_fit_of_the_trimmed_kind_is_weighted_and_blind_outside_the_mask(per_clip: bool) -> None:
    """A weight of 0 takes the pixel that is off the line out of the fit, so that it is off by 7 and is left out."""
    p = torch.tensor([0.0, 1, 2, 3, 50], dtype=torch.float64).view(1, 1, 1, 5)
    d = torch.tensor([1.0, 3, 12, 7, -40], dtype=torch.float64).view(1, 1, 1, 5)
    valid = torch.tensor([True, True, True, True, False]).view(1, 1, 1, 5)
    weight = torch.tensor([1.0, 1, 0, 1, 1e6], dtype=torch.float64).view(1, 1, 1, 5)
    kept = trimmed(p, d, valid, weight, per_clip, 0.25)
    assert kept.flatten().tolist() == [True, True, False, True, False]
    # All weight on two points, a line of slope 10: only the second pixel is off it, by 9, though its depth is near 1.
    weight = torch.tensor([0.0, 0, 1, 1, 1e6], dtype=torch.float64).view(1, 1, 1, 5)
    d = torch.tensor([0.0, 1, 20, 30, -40], dtype=torch.float64).view(1, 1, 1, 5)
    assert trimmed(p, d, valid, weight, per_clip, 0.25).flatten().tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("per_clip", [False, True])
def test_frames_without_pixels_are_trimmed_to_themselves(per_clip: bool) -> None:
    none = torch.zeros(2, 3, 0, 4)
    assert trimmed(none, none, none.bool(), None, per_clip, 0.2).shape == none.shape
