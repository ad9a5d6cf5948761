"""Colours and pictures: the value of a pixel can be recovered from its colour."""

import base64
import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from phys4d.report.colours import MISSING, flow, flow_legend, sequential, table
from phys4d.report.curves import panel, smoothed
from phys4d.report.pictures import address, hold_last, poster, strip_frames


def hue(colour: np.ndarray) -> float:
    return 360 * colorsys.rgb_to_hsv(*(colour / 255))[0]


@pytest.mark.parametrize(
    ("du", "dv", "low", "high"),
    [(1, 0, 0, 1), (0, 1, 45, 65), (-1, 0, 170, 215), (0, -1, 240, 300)],
    ids=["right is red", "down is yellow", "left is cyan", "up is violet"],
)
def test_flow_directions(du, dv, low, high) -> None:
    assert low <= hue(flow(np.array([du, dv], float)[:, None, None], 1.0)[0, 0]) <= high


def test_flow_hue_goes_round_without_a_seam() -> None:
    angle = np.linspace(0, 2 * np.pi, 721)
    colours = flow(np.stack([np.cos(angle), np.sin(angle)])[:, None], 1.0)[0].astype(int)
    assert np.abs(np.diff(colours, axis=0)).max() <= 6
    assert (colours.max(axis=1) >= 254).all() and (colours.min(axis=1) <= 1).all()


def test_flow_strength_is_saturation_and_rest_is_white() -> None:
    motion = np.zeros((3, 1, 1, 4))
    motion[0, 0, 0] = [0, 1, 2, 5]
    assert flow(motion, 2.0)[0, 0].tolist() == [[255, 255, 255], [255, 128, 128], [255, 0, 0], [255, 0, 0]]
    motion[1] = np.nan
    assert (flow(motion, 2.0) == MISSING).all()


def test_flow_legend_shows_right_at_the_right() -> None:
    wheel = flow_legend(64)
    assert hue(wheel[32, 62, :3]) < 5 or hue(wheel[32, 62, :3]) > 355
    assert wheel[0, 0, 3] == 0 and wheel[32, 32, 3] == 255


def test_sequential_maps_keep_order_and_mark_missing() -> None:
    for name in ("viridis", "magma"):
        luminance = table(name) @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(luminance) > -0.5).all() and luminance[-1] - luminance[0] > 150
    values = np.array([0.0, 1.0, 2.0, 9.0, np.nan, 1.5])
    colours = sequential(values, 1.0, 2.0, name="viridis", valid=values > 0)
    assert (colours[[0, 4]] == MISSING).all()
    assert colours[1].tolist() == table("viridis")[0].tolist()
    assert colours[2].tolist() == colours[3].tolist() == table("viridis")[255].tolist()
    assert colours[5].tolist() == table("viridis")[128].tolist()


def test_filmstrip_frames() -> None:
    assert strip_frames(17) == [0, 4, 8, 12, 16]
    assert strip_frames(3) == [0, 1, 2] and strip_frames(1) == [0]
    assert hold_last(np.arange(16))[-2:].tolist() == [15, 15]


def test_transparent_pixels_keep_their_colour() -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    content = address(image).partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as read:
        assert np.array_equal(np.asarray(read.convert("RGBA")), image)


def test_a_poster_shows_its_pictures_from_left_to_right() -> None:
    pictures = [np.full((20, 30, 3), value, dtype=np.uint8) for value in (30, 200)]
    with Image.open(io.BytesIO(base64.b64decode(poster(pictures, height=40).partition(",")[2]))) as read:
        pixels = np.asarray(read.convert("RGB")).astype(int)
    assert pixels.shape == (40, 120, 3)
    assert abs(pixels[:, :55] - 30).max() < 6 and abs(pixels[:, 65:] - 200).max() < 6


def test_smoothing_keeps_a_line_and_its_length() -> None:
    line = np.linspace(0, 1, 301)
    assert np.allclose(smoothed(line)[10:-10], line[10:-10]) and len(smoothed(line)) == 301
    assert np.allclose(smoothed(np.full(4, 3.0)), 3)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-3.0, -3.0, 1e-9], [1e-7, 3.0], [2.0, 2.0 + 1e-15]])
def test_panel_draws_any_values_inside_itself(values) -> None:
    svg = panel("a < b", np.arange(len(values), dtype=float), np.array(values), unit="m")
    assert "nan" not in svg and "inf" not in svg and "a &lt; b" in svg
    line = svg.split('class="raw" points="')[1].split('"')[0]
    points = np.array([[float(v) for v in pair.split(",")] for pair in line.split()])
    assert ((points >= 0) & (points <= [380, 216])).all()
