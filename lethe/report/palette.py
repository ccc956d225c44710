"""The colours of every picture and page, one for each role, for any kind of colour vision.

Okabe and Ito 2008 (Color Universal Design), some of them lighter on a dark page. Models and sets of images
differ in their lines or markers too, never in colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INITIAL, UNLEARNED, IDEAL = "#E69F00", "#0072B2", "#7F7F7F"
FORGET, RETAIN, TEST = "#D55E00", "#009E73", "#CC79A7"

MODELS: Final[Mapping[str, str]] = {"initial": INITIAL, "unlearned": UNLEARNED, "ideal": IDEAL}
SETS: Final[Mapping[str, str]] = {"forget": FORGET, "retain": RETAIN, "test": TEST}
ROLES: Final[Mapping[str, str]] = {**MODELS, **SETS}

# How a line of each role is drawn, as matplotlib and as SVG's stroke-dasharray have it.
LINES: Final[Mapping[str, str]] = {
    "initial": "-",
    "unlearned": "-",
    "ideal": "--",
    "forget": "-",
    "retain": "--",
    "test": ":",
}
DASHES: Final[Mapping[str, str]] = {"-": "none", "--": "5 3", ":": "2 2"}
MARKERS: Final[Mapping[str, str]] = {
    "initial": "s",
    "unlearned": "o",
    "ideal": "D",
    "forget": "o",
    "retain": "s",
    "test": "^",
}

# The page: paper, ink, fainter ink, lines, the ground of tables and code, marks of good and bad findings.
LIGHT: Final[Mapping[str, str]] = {
    **ROLES,
    "paper": "#FFFFFF",
    "ink": "#1B1F24",
    "faint": "#59636E",
    "line": "#D1D9E0",
    "ground": "#F6F8FA",
    "good": "#00694D",
    "bad": "#A63D00",
}
DARK: Final[Mapping[str, str]] = {
    **ROLES,
    "unlearned": "#56B4E9",
    "ideal": "#C4C8CC",
    "paper": "#14171A",
    "ink": "#E6EAEE",
    "faint": "#A3ADB8",
    "line": "#3A424A",
    "ground": "#1D2227",
    "good": "#4CC9A0",
    "bad": "#FF9A66",
}


def rgb(colour: str) -> tuple[int, ...]:
    """Return red, green and blue of "#RRGGBB", 0 to 255."""
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def css_variables() -> str:
    """Return `:root` with a variable for each colour ("--unlearned"), dark where the system asks for it."""
    light, dark = (
        " ".join(f"--{name}: {colour};" for name, colour in colours.items()) for colours in (LIGHT, DARK)
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        "@media print { :root { color-scheme: light; } }\n"
    )
