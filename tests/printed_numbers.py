"""Printed lines that are the same up to what another processor makes of the numbers in them."""

import re

NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?!\w)")
# By how much a number may differ on another processor: in its unit, or of itself if that is more. What three
# seeds say of their spread is far less stable than their mean.
AT_MOST, SHARE = 1.0, 0.15
AT_MOST_SPREAD, SHARE_SPREAD = 5.0, 0.5
SPREAD = re.compile(r"± *[\d.]+|[-\d.]+ to [-\d.]+")


def shape(line: str) -> str:
    """A line without its numbers and its widths."""
    return " ".join(re.sub(r"-{3,}", "---", NUMBER.sub("#", line)).split())


def near(shown: float, found: float, at_most: float, share: float) -> bool:
    return abs(shown - found) <= max(at_most, share * abs(shown))


def alike(shown: str, line: str, at_most: float = AT_MOST) -> bool:
    spreads = [
        [float(number) for part in SPREAD.findall(text) for number in NUMBER.findall(part)]
        for text in (shown, line)
    ]
    others = [[float(number) for number in NUMBER.findall(SPREAD.sub(" ", text))] for text in (shown, line)]
    return (
        shape(shown) == shape(line)
        and all(near(a, b, at_most, SHARE) for a, b in zip(*others, strict=True))
        and all(near(a, b, AT_MOST_SPREAD, SHARE_SPREAD) for a, b in zip(*spreads, strict=True))
    )
