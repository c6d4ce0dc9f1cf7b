"""What is asked of every figure once it is drawn."""

from itertools import pairwise

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def check(figure):
    """Asserts that no text is cut off and no label of a tick runs into the next;
    returns the texts."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    axes = [axis for part in figure.axes for axis in (part.xaxis, part.yaxis)]
    ticks = {axis: _ticks(axis) for axis in axes if axis.get_visible()}
    every = {label for axis in axes for label in axis.get_ticklabels(which="both")}
    for text in [text for text in texts if text not in every] + sum(ticks.values(), []):
        box, canvas = text.get_window_extent(), figure.bbox
        inside = min(box.x0, box.y0) >= -1 and box.x1 <= canvas.x1 + 1 and box.y1 <= canvas.y1 + 1
        assert inside, (text.get_text(), box, canvas)
    for axis, labels in ticks.items():
        for one, other in pairwise(labels):
            boxes = [label.get_window_extent().padded(-0.5) for label in (one, other)]
            assert not boxes[0].overlaps(boxes[1]), (axis, one.get_text(), other.get_text())
    return [text.get_text() for text in texts]


def _ticks(axis):
    """The labels of the major ticks that are drawn."""
    low, high = sorted(axis.get_view_interval())
    pairs = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False)
    return [text for at, text in pairs if low <= at <= high and text.get_text()]
