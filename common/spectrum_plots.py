"""The figures of Jacobian spectra. Each function returns a matplotlib Figure."""

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common import streams
from common.plots import BLUE, GREEN, ORANGE, PURPLE, generation_colours, generation_name
from common.posterior import LABELS

STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"))
Z_TICKS = (-300, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300)
FLOOR = 1e-16  # of an eigenvalue relative to the largest, in logarithmic figures


def _panels(n, title, width=3.4, height=3.0, rows=1):
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
    figure, panels = _panels(len(arrays["t"]), title)
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
    figure, panels = _panels(len(arrays["t"]), title)
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
    figure, panels = _panels(len(arrays["t"]), title)
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
    figure, panels = _panels(
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
        figure, panels = _panels(len(found), title, rows=max(2, -(-len(found) // 5)))
        for axes, (name, values) in zip(panels, found.items(), strict=False):
            for i, t in enumerate(arrays["t"]):
                _band(axes, arrays["generations"], values[:, i], STYLES[i % 4], f"t = {t}")
            axes.set_title(LABELS[name], fontsize=9)
        panels[0].legend(fontsize=8)
    else:
        first, found = next(iter(runs.values()))
        rows = 2 if len(first["t"]) == 1 else len(found)
        figure, panels = _panels(len(found) * len(first["t"]), title, rows=rows, height=2.4)
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


def onsets(loops, controls, calibration, primary):
    """All streams over the generations, a panel for each kind and a colour for each timestep.

    Calibrated: z-scores against the controls, which are grey; dashed: the threshold, on the side on
    which the stream alarms; ring: the first alarm; shaded: generations that are not judged.
    Otherwise: the change since generation 0, with its 95 % interval over anchors where there are.
    """
    groups = {}
    for name in loops[0].names:
        groups.setdefault(streams.kind_and_time(name)[0], []).append(name)
    shades = colormaps["plasma"](np.linspace(0, 0.8, len(loops[0].t)))
    colours = dict(zip(loops[0].t, shades, strict=True))
    if calibration is None:
        title = "UNCALIBRATED (no control loops): change since generation 0"
    else:
        title = f"z-scores against {len(controls)} control loops"
        title += f", judged for the first {calibration.horizon} generations"
        if any(len(loop.generations) > calibration.horizon for loop in loops):
            title += " (shaded: the others)"
    rows = max(3, -(-len(groups) // 6))
    figure, panels = _panels(len(groups), title, rows=rows, height=2.5, width=3.3)
    for axes, (kind, names) in zip(panels, groups.items(), strict=False):
        for name in names:
            t = streams.kind_and_time(name)[1]
            style = {"color": colours.get(t, BLUE), "lw": 2.4 if name == primary else 1.2}
            if calibration is None:
                _change(axes, loops, name, style)
            else:
                _z_scores(axes, loops, controls, calibration, name, style)
        mark = f" (primary: t = {primary.split('=')[1]})" if primary in names else ""
        axes.set_title(kind + mark, fontsize=9)
        axes.axhline(0, color="black", lw=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    if calibration is not None:
        _share_z(panels[: len(groups)], loops, calibration)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(groups) - len(panels) // rows) : len(groups)]:
        axes.set_xlabel("generation")
    figure.supylabel("change since generation 0" if calibration is None else "z-score")
    figure.legend(
        handles=_onset_keys(colours, calibration), loc="outside lower center", ncols=6, fontsize=8
    )
    return figure


def _change(axes, loops, name, style):
    """The change of one stream since generation 0, in every loop."""
    for loop in loops:
        values = loop.of(name) - loop.of(name)[0]
        if name in loop.per_anchor:
            differences = loop.per_anchor[name] - loop.per_anchor[name][0]
            error = 1.96 * differences.std(axis=1, ddof=1) / differences.shape[1] ** 0.5
            low, high = values - error, values + error
            axes.fill_between(loop.generations, low, high, color=style["color"], alpha=0.15, lw=0)
        axes.plot(loop.generations, values, marker="o", ms=3.5, **style)


def _z_scores(axes, loops, controls, calibration, name, style):
    """One stream of every loop and control loop against the controls, with its threshold."""
    column = loops[0].names.index(name)
    for control in controls:
        z = calibration.z(control.values)[:, column]
        axes.plot(control.generations, z, color="0.75", lw=0.7, marker=".", ms=3, zorder=0)
    height, direction = calibration.threshold[column], calibration.direction[column]
    if calibration.monitored[column]:
        for sign in (1, -1) if direction == 0 else (direction,):
            axes.axhline(sign * height, color="black", lw=1, ls="--")
    for loop in loops:
        z = calibration.z(loop.values)[:, column]
        axes.plot(loop.generations, z, marker="o", ms=3.5, **style)
        if first := calibration.onsets(loop.values)[column]:
            at = loop.generations[first.generation], z[first.generation]
            axes.plot(*at, marker="o", ms=11, mfc="none", mec=style["color"], mew=1.8)


def _share_z(panels, loops, calibration):
    """The same axes for all panels of z-scores, the logarithm of large ones; and the horizon."""
    low = 1.5 * min(axes.get_ylim()[0] for axes in panels)  # room for rings
    high = 1.5 * max(axes.get_ylim()[1] for axes in panels)
    last = max(loop.generations[-1] for loop in loops)
    for axes in panels:
        axes.set_yscale("symlog", linthresh=3)
        axes.set(ylim=(low, high), xlim=(-0.4, last + 0.4))
        ticks = [tick for tick in Z_TICKS if low <= tick <= high]
        axes.set_yticks(ticks, labels=ticks)
        axes.minorticks_off()
        if last >= calibration.horizon:
            axes.axvspan(calibration.horizon - 0.5, last + 0.5, color="0.93", zorder=-1)


def _onset_keys(colours, calibration):
    """What the colours and lines of `onsets` mean."""
    keys = [
        Line2D([], [], color=colour, marker="o", label=f"t = {t}") for t, colour in colours.items()
    ]
    keys.append(Line2D([], [], color=BLUE, marker="o", label="metric"))
    if calibration is not None:
        ring = {"marker": "o", "ms": 10, "mfc": "none", "mec": "black", "ls": ""}
        keys += [
            Line2D([], [], color="0.75", marker=".", label="control loops"),
            Line2D([], [], color="black", ls="--", label="threshold"),
            Line2D([], [], label="first alarm", **ring),
        ]
    return keys
