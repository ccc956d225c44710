"""The colours: apart for every kind of colour vision, and readable on their paper. Truth: published
simulations and WCAG's formula.
"""

from itertools import combinations

import numpy as np
import pytest

from lethe.report.palette import DARK, DASHES, LIGHT, LINES, MARKERS, MODELS, ROLES, SETS, css_variables

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
APART = 15  # CIE76; 2.3 is a just noticeable difference


def linear(colour):
    part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = SRGB_TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    lights = sorted(float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722])) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("page", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("group", [MODELS, SETS], ids=["models", "sets"])
def test_what_stands_in_one_picture_is_told_apart_with_any_colour_vision(group, page, vision):
    seen = {name: lab(VISION[vision] @ linear(page[name])) for name in group}

    near = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(group, 2)}
    assert min(near.values()) > APART, near


@pytest.mark.parametrize("page", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "ground"])
def test_words_have_the_contrast_that_wcag_asks_for(page, ground):
    assert {
        ink: contrast(page[ink], page[ground])
        for ink in ("ink", "faint", "good", "bad")
        if contrast(page[ink], page[ground]) < 4.5
    } == {}


@pytest.mark.parametrize("group", [MODELS, SETS], ids=["models", "sets"])
def test_colour_is_never_alone(group):
    assert len({MARKERS[name] for name in group}) == len(group)
    assert set(LINES) == set(MARKERS) == set(ROLES)
    assert set(LINES.values()) <= set(DASHES)


def test_the_css_has_every_colour_of_both_pages():
    css = css_variables()

    assert all(f"--{name}: {colour};" in css for page in (LIGHT, DARK) for name, colour in page.items())
