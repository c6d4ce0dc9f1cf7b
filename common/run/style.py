"""How every figure looks: sizes, fonts, colours, and what is drawn in more than one of them.

Widths are those of one and of two columns of a paper, in inches, and text is 7 to 9 points high, so
that a figure goes into a paper as it is. Colours are those of Okabe & Ito (2008), which
colour-blind readers can tell apart; each has a marker and a line of its own, for black and white.
"""

import textwrap

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, MaxNLocator

from common.run.folder import generation_name
from common.seeds import INITIAL

ONE, TWO = 3.3, 6.9  # inches
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#8C5A00", "#000000")
MARKERS = "osD^vPX"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
BAND, FAINT = "0.85", "0.6"  # the greys of what controls do, and of what is in the background
LOGARITHMIC = 100  # from this ratio of the largest to the smallest value on, an axis of logarithms

matplotlib.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "figure.titlesize": 9,
        "figure.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.5,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.linewidth": 0.5,
        "grid.alpha": 0.4,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "pdf.fonttype": 42,  # text that can be searched and edited
    }
)


def style(i):
    """Colour, marker and line of the i-th of several curves, as arguments of plot."""
    of = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)]
    return dict(zip(("color", "marker", "ls"), of, strict=True))


def panels(n, title, height, columns=4, width=None, **shared):
    """A Figure and its n axes (array), in rows of at most `columns` panels of `height` inches; of
    this width, or one column wide where there is one panel. shared: sharex or sharey."""
    columns = min(n, columns)
    rows = -(-n // columns)
    size = width or (ONE if n == 1 else TWO), height * rows + 0.45
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(wrapped(title, 14 * size[0]))
    axes = figure.subplots(rows, columns, squeeze=False, **shared).reshape(-1)
    for unused in axes[n:]:
        unused.remove()
    for used in axes[:n]:
        used.grid()
    return figure, axes[:n]


def label_below(panels, text):
    """The same label below the lowest panel of each column."""
    lowest = {axes.get_subplotspec().colspan.start: axes for axes in panels}
    for axes in lowest.values():
        axes.set_xlabel(text)


def wrapped(text, width):
    """A text in lines of at most `width` characters."""
    return textwrap.fill(text, int(width), break_long_words=False)


class Generations(Locator):
    """Ticks at the initial model, where it is there, and at as many of the generations from first
    to last as have room."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def __call__(self):
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin, vmax):
        points = 72 * self.axis.axes.get_window_extent().width / self.axis.get_figure(root=True).dpi
        unit = points / max(vmax - vmin, 1)  # between two generations
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, np.inf) if s * unit >= 12)
        found = [g for g in range(max(self.first, 0), self.last + 1) if g % step == 0]
        if self.first == INITIAL:  # its name is long
            found = [INITIAL] + [g for g in found if (g - INITIAL) * unit >= 14]
        return np.array(found)


def generation_axis(axes, generations):
    """The horizontal axis of a panel over these generations."""
    first, last = min(generations), max(generations)
    room = max(0.25, 0.03 * (last - first))
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(Generations(first, last))
    axes.xaxis.set_major_formatter(lambda g, _: generation_name(g))


def generation_colours(n):
    """n colours from early (dark) to late (light), ordered in brightness too."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, n))


def generation_bar(figure, axes, generations):
    """A colour bar with one colour per generation."""
    colours = generation_colours(len(generations))
    norm = BoundaryNorm(np.arange(len(generations) + 1) - 0.5, len(generations))
    bar = figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=axes, pad=0.01)
    step = -(-len(generations) // 10)
    shown = [i for i in range(len(generations)) if i % step == 0]
    bar.set_ticks(shown, labels=[generation_name(generations[i]) for i in shown])
    bar.minorticks_off()
    bar.set_label("generation")


def band(axes, values, label):
    """A grey band from the least to the most of the finite values, if there are any."""
    if len(values := finite(values)):
        axes.axhspan(min(values), max(values), color=BAND, lw=0, label=label, zorder=0)


def level(axes, value, label):
    """A dotted line at a height that is to be compared with."""
    axes.axhline(value, color="black", ls=":", lw=1, label=label, zorder=1)


def honest_axis(axes, values, name, top=0.0, logarithmic=False):
    """A vertical axis from zero to above `top` and these values; of logarithms, and saying so,
    where that is wanted and they spread over more than two decades."""
    values = finite(values)
    positive = values[values > 0]
    if logarithmic and len(positive) and max(positive) > LOGARITHMIC * min(positive):
        axes.set(yscale="log", ylabel=f"{name} (log axis)")
    else:
        axes.set(ylim=(0, 1.06 * max([top, *values]) or 1), ylabel=name)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def finite(values):
    """The finite ones of these numbers, as an array."""
    values = np.asarray(values, dtype=float).reshape(-1)
    return values[np.isfinite(values)]
