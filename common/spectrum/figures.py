"""The figures of Jacobian spectra. Each function returns a matplotlib Figure."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.run.plots import BLUE, GREEN, ORANGE, PURPLE, generation_colours, generation_name
from common.spectrum.posterior import LABELS

STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"))
FLOOR = 1e-16  # of an eigenvalue relative to the largest, in logarithmic figures


def panels_of(n, title, width=3.4, height=3.0, rows=1):
    figure = Figure(
        figsize=(width * -(-n // rows) + 0.8, height * rows + 0.3), layout="constrained"
    )
    figure.suptitle(title)
    return figure, figure.subplots(rows, -(-n // rows), squeeze=False).reshape(-1)


def _log_eigenvalues(arrays):
    """log10 of the eigenvalues (G, T, A, D), floored where they are zero by rounding."""
    values = arrays["eigenvalues"]
    return np.log10(np.maximum(values, FLOOR * values[..., :1]))


def _time_title(arrays, i):
    return f"t = {arrays['t'][i]} of {arrays['n_T']},  σ = {arrays['sigma'][i]:.2f}"


def _generation_bar(figure, axes, generations):
    """A colour bar with one colour per generation."""
    colours = generation_colours(len(generations))
    norm = BoundaryNorm(np.arange(len(generations) + 1) - 0.5, len(generations))
    bar = figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=axes, pad=0.01)
    shown = range(0, len(generations), max(1, len(generations) // 10))
    bar.set_ticks(list(shown), labels=[generation_name(generations[i]) for i in shown])
    bar.set_label("generation")


def eigenvalue_curves(arrays, title):
    """Index against eigenvalue of J^T J (geometric mean over anchors), a line per generation."""
    logs = _log_eigenvalues(arrays).mean(axis=2)  # (G, T, D)
    figure, panels = panels_of(len(arrays["t"]), title)
    for i, axes in enumerate(panels):
        for row, colour in zip(logs[:, i], generation_colours(len(logs)), strict=True):
            axes.plot(np.arange(1, len(row) + 1), 10**row, color=colour, lw=1.2)
        axes.set(title=_time_title(arrays, i), xlabel="index", yscale="log")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("eigenvalue of $J^TJ$")
    _generation_bar(figure, panels, arrays["generations"])
    return figure


def densities(arrays, title):
    """Densities of the log eigenvalues of all anchors together, a line per generation."""
    logs = _log_eigenvalues(arrays)
    figure, panels = panels_of(len(arrays["t"]), title)
    for i, axes in enumerate(panels):
        low, high = np.quantile(logs[:, i], [0.002, 1])
        bins = np.linspace(low, high, 60)
        for row, colour in zip(logs[:, i], generation_colours(len(logs)), strict=True):
            density, _ = np.histogram(row.ravel(), bins, density=True)
            axes.plot((bins[1:] + bins[:-1]) / 2, density, color=colour, lw=1.2)
        axes.set(
            title=_time_title(arrays, i), xlabel="$\\log_{10}$ eigenvalue of $J^TJ$", yticks=[]
        )
    panels[0].set_ylabel("density")
    _generation_bar(figure, panels, arrays["generations"])
    return figure


def sigma_J(arrays, title):
    """Singular values of sigma J. Directions off the data manifold have the value 1 (Tweedie: there
    the posterior variance is zero), directions along it less."""
    figure, panels = panels_of(len(arrays["t"]), title)
    values = np.sqrt(arrays["eigenvalues"]).mean(axis=2) * arrays["sigma"][:, None]  # (G, T, D)
    for i, axes in enumerate(panels):
        axes.axhline(1, color="black", lw=1, ls="--")
        for row, colour in zip(values[:, i], generation_colours(len(values)), strict=True):
            axes.plot(np.arange(1, len(row) + 1), row, color=colour, lw=1.2)
        axes.set(title=_time_title(arrays, i), xlabel="index", ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("singular value of $\\sigma J$ (dashed: 1)")
    _generation_bar(figure, panels, arrays["generations"])
    return figure


def vectors(arrays, title, n_anchors=10):
    """The leading right singular vector of J at each of the first anchors, a row per generation."""
    figure, panels = panels_of(
        len(arrays["t"]), title, width=4.2, height=0.6 + 0.42 * len(arrays["t"])
    )
    figure.set_size_inches(4.3 * len(panels), 0.9 + 0.42 * len(arrays["generations"]))
    for i, axes in enumerate(panels):
        rows = arrays["leading_vectors"][:, i, :n_anchors, 0].reshape(
            len(arrays["generations"]), -1, 28, 28
        )
        rows = rows / np.abs(rows).max(axis=(2, 3), keepdims=True)  # each on its own scale
        canvas = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        axes.imshow(canvas, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        for draw_line, n in ((axes.axvline, rows.shape[1]), (axes.axhline, rows.shape[0])):
            for i_line in range(1, n):
                draw_line(28 * i_line - 0.5, color="0.6", lw=0.5)
        axes.set(title=_time_title(arrays, i), xlabel="anchor's class")
        axes.set_xticks(
            14 + 28 * np.arange(rows.shape[1]), labels=arrays["anchor_labels"][: rows.shape[1]]
        )
        names = [generation_name(g) for g in arrays["generations"]]
        axes.set_yticks(14 + 28 * np.arange(len(names)), labels=names if i == 0 else [])
    panels[0].set_ylabel("generation")
    return figure


def statistics(runs, title):
    """Each statistic over the generations: mean over anchors, and where 80 % of the anchors lie.

    runs: {name: (arrays, {statistic: (G, T, A)})}; one run has a line per time, several runs a
    panel per statistic and time.
    """
    if len(runs) == 1:
        ((arrays, found),) = runs.values()
        figure, panels = panels_of(len(found), title, rows=max(2, -(-len(found) // 5)))
        for axes, (name, values) in zip(panels, found.items(), strict=False):
            for i, t in enumerate(arrays["t"]):
                _band(axes, arrays["generations"], values[:, i], STYLES[i % 4], f"t = {t}")
            axes.set_title(LABELS[name], fontsize=9)
        panels[0].legend(fontsize=8)
    else:
        first, found = next(iter(runs.values()))
        rows = 2 if len(first["t"]) == 1 else len(found)
        figure, panels = panels_of(len(found) * len(first["t"]), title, rows=rows, height=2.4)
        for row, name in enumerate(found):
            for i, t in enumerate(first["t"]):
                axes = panels[row * len(first["t"]) + i]
                for style, (label, (arrays, values)) in zip(STYLES * 9, runs.items(), strict=False):
                    _band(axes, arrays["generations"], values[name][:, i], style, label)
                axes.set_title(f"{LABELS[name]}, t = {t}", fontsize=8)
        panels[0].legend(fontsize=7)
    for axes in panels:
        if not axes.has_data():
            axes.set_axis_off()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("generation (-1: initial)", fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _band(axes, generations, values, style, label):
    colour, marker = style
    low, high = np.quantile(values, [0.1, 0.9], axis=1)
    axes.fill_between(generations, low, high, color=colour, alpha=0.15, lw=0)
    axes.plot(generations, values.mean(axis=1), color=colour, marker=marker, ms=4, label=label)
