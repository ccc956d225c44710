"""Which texts of a figure lie on each other."""

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_that_overlap(figure: Figure) -> list[tuple[str, str]]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    ticks = {
        id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.findobj(Text)
    }
    shown = [
        label for axes in figure.axes for label in (*shown_ticks(axes), axes.xaxis.label, axes.yaxis.label)
    ]
    others = [text for text in figure.findobj(Text) if id(text) not in ticks]
    seen = [text for text in (*shown, *others) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), corners(text, renderer)) for text in seen]
    return [(a, b) for (a, first), (b, second) in itertools.combinations(boxes, 2) if overlap(first, second)]


def corners(text, renderer):
    """The text's own rectangle, a little smaller, turned as it is: (4, 2) pixels. An annotation's extent
    would have its line in it too.
    """
    around = Text.get_window_extent(text, renderer)
    angle = text.get_rotation()
    text.set_rotation(0)
    own = Text.get_window_extent(text, renderer)
    text.set_rotation(angle)
    half = np.array([0.98 * own.width, 0.9 * own.height]) / 2
    turn = np.array(
        [
            [np.cos(np.radians(angle)), -np.sin(np.radians(angle))],
            [np.sin(np.radians(angle)), np.cos(np.radians(angle))],
        ]
    )
    middle = (around.p0 + around.p1) / 2  # the same for a rectangle and for the upright one around it
    return middle + (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half) @ turn.T


def overlap(first, second):
    """Whether two rectangles have a point in common: no side of either separates them."""
    sides = np.concatenate([first[1:3] - first[:2], second[1:3] - second[:2]])
    return not any(
        (first @ side).max() <= (second @ side).min() or (second @ side).max() <= (first @ side).min()
        for side in sides
    )


def shown_ticks(axes):
    for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
        for tick in axis.get_major_ticks():
            if low <= tick.get_loc() <= high:
                yield tick.label1
