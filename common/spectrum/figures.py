"""The figures of Jacobian spectra. Each function returns a matplotlib Figure.

arrays are those of `measure.load`; controls, a list of them, are of control generations only: what
they span is the scale of one training's randomness.
"""

import numpy as np

from common.run import style
from common.spectrum import WATCHED
from common.spectrum.posterior import LABELS

FLOOR = 1e-16  # of an eigenvalue relative to the largest, in logarithmic figures
OFF = "directions without doubt, ideally"
IDEAL = {"color": "black", "lw": 0.8, "ls": "--"}
LEAST_RANGE = 5  # per cent to both sides that an axis of changes shows at least


def eigenvalue_curves(arrays, title, controls=()):
    """Eigenvalues of J^T J (geometric mean over anchors), a line per generation, against their rank
    from the smallest, so that the few of free directions have room. Dashed: 1/sigma^2, where an
    ideal denoiser has those of directions off the data."""

    def curves(of, i):
        return 10 ** _log_eigenvalues(of)[:, i].mean(axis=1)[:, ::-1]

    ideal = "$1/\\sigma_t^2$", arrays["sigma"] ** -2.0
    figure, panels = _spectra(arrays, title, controls, curves, ideal)
    for axes in panels:
        axes.set_yscale("log")
    panels[0].set_ylabel("eigenvalue of $J^TJ$ (log axis)")
    return figure


def sigma_J(arrays, title, controls=()):
    """All singular values of sigma_t J, mean over anchors, a line per generation, as
    `eigenvalue_curves`. Directions off the data have the value 1 in an ideal denoiser (Tweedie:
    there the posterior variance is zero), directions along it less."""

    def curves(of, i):
        return np.sqrt(of["eigenvalues"][:, i]).mean(axis=1)[:, ::-1] * of["sigma"][i]

    ideal = "1", np.ones(len(arrays["t"]))
    figure, panels = _spectra(arrays, title, controls, curves, ideal)
    for axes in panels:
        axes.set_ylim(0, None)
    panels[0].set_ylabel("singular value of $\\sigma_t\\,J$")
    return figure


def _spectra(arrays, title, controls, curves, ideal):
    """A panel per timestep with curves(arrays, i) (G, D) of the i-th, the smallest first, over the
    range of controls and a dashed line at the ideal, its name and (T,)."""
    name, heights = ideal
    figure, panels = style.panels(len(arrays["t"]), title, 2.0, columns=3)
    for i, axes in enumerate(panels):
        rows = curves(arrays, i)
        index = np.arange(1, rows.shape[1] + 1)
        axes.axhline(heights[i], label=f"{name}: {OFF}", **IDEAL)
        if controls:
            beside = np.concatenate([curves(control, i) for control in controls])
            low, high = beside.min(axis=0), beside.max(axis=0)
            text = f"{len(beside)} control models"
            axes.fill_between(index, low, high, color=style.BAND, lw=0, label=text)
        for row, colour in zip(rows, style.generation_colours(len(rows)), strict=True):
            axes.plot(index, row, color=colour, lw=1)
        axes.set(title=_time_title(arrays, i), xscale="log")
    style.label_below(panels, "rank from the smallest (log axis)")
    style.generation_bar(figure, panels, arrays["generations"])
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(2, len(panels)),
    )
    return figure, panels


def densities(arrays, title):
    """Densities of the log eigenvalues of all anchors together, a line per generation; dashed: the
    ideal 1/sigma_t^2 of directions off the data. The smallest 0.2 % are outside."""
    logs = _log_eigenvalues(arrays)
    figure, panels = style.panels(len(arrays["t"]), title, 1.8, columns=3)
    for i, axes in enumerate(panels):
        low, high = np.nanquantile(logs[:, i], [0.002, 1])
        bins = np.linspace(low, high, 60)
        for row, colour in zip(logs[:, i], style.generation_colours(len(logs)), strict=True):
            density, _ = np.histogram(row.ravel(), bins, density=True)
            axes.plot((bins[1:] + bins[:-1]) / 2, density, color=colour, lw=1)
        where = -2 * np.log10(arrays["sigma"][i])
        axes.axvline(where, label=f"$1/\\sigma_t^2$: {OFF}", **IDEAL)
        axes.set(title=_time_title(arrays, i), ylim=(0, None))
    style.label_below(panels, "$\\log_{10}$ eigenvalue of $J^TJ$")
    panels[0].set_ylabel("density")
    style.generation_bar(figure, panels, arrays["generations"])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def statistics(runs, title, controls=()):
    """Each watched statistic over the generations, mean over anchors, as its change in per cent
    from the mean of the controls, or from a run's first generation where there are none.

    runs: {name: (arrays, {statistic: (G, T, A)})}; controls: such pairs, whose range is grey, with
    edges for each time. A run has a curve per time; of several runs each has a colour.
    """
    everywhere = [found for _, found in (*runs.values(), *controls)]  # earlier versions had fewer
    names = [name for name in WATCHED if all(name in found for found in everywhere)]
    start = "the first generation (no controls: one training's randomness is not known)"
    if controls:
        n = sum(len(arrays["generations"]) for arrays, _ in controls)
        several = len(next(iter(runs.values()))[0]["t"]) > 1
        edges = several * ", edges in the line of their t"
        start = f"the mean of {n} control models (grey: their range{edges})"
    figure, panels = style.panels(len(names), "", 1.5, columns=3)
    figure.suptitle(f"{title}\nchange from {start}".strip())
    note = "C = I − σ(J + Jᵀ)/2; s: singular values of J; λ: eigenvalues; v: principal directions "
    note += "of the data;\nwhere a logarithm is named, change of the quantity itself"
    for axes, name in zip(panels, names, strict=True):
        reach = style.finite(_draw_changes(axes, runs, controls, name))
        axes.set_ylim(1.1 * min([-LEAST_RANGE, *reach]), 1.1 * max([LEAST_RANGE, *reach]))
        axes.set_title(style.wrapped(LABELS[name], 42), fontsize=7)
        axes.axhline(0, color="black", lw=0.6)
        style.generation_axis(axes, [g for of, _ in runs.values() for g in of["generations"]])
    style.label_below(panels, "generation")
    for axes in panels[::3]:
        axes.set_ylabel("change, %")
    keys = panels[0].get_legend_handles_labels()
    columns = 4 if len(runs) == 1 else 2
    figure.legend(*keys, loc="outside lower center", ncols=columns, title=note, title_fontsize=7)
    return figure


def _draw_changes(axes, runs, controls, name):
    """The curves of one statistic over the generations, on the range of the controls; returns all
    values that are shown."""
    shown = []
    for r, (label, (arrays, found)) in enumerate(runs.items()):
        for i, t in enumerate(arrays["t"].tolist()):
            kind, text = style.style(i), f"t = {t}"
            if len(runs) > 1:
                kind, text = style.style(r) | {"ls": kind["ls"]}, f"{label}, {text}"
            series = found[name][:, i].mean(axis=1)
            null = [of[name][:, i].mean(axis=1) for _, of in controls] or [series[:1]]
            null = np.concatenate(null)
            change, null = (_change(name, values, null.mean()) for values in (series, null))
            axes.plot(arrays["generations"], change, label=text, **kind)
            if controls and r == 0:
                axes.axhspan(min(null), max(null), color=style.BAND, lw=0, zorder=0)
                for edge in (min(null), max(null)) if len(arrays["t"]) > 1 else ():
                    axes.axhline(edge, color=kind["color"], ls=kind["ls"], lw=0.6, zorder=0)
            shown += [*change, *null]
    return shown


def _change(name, values, start):
    """From start to values, in per cent."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if name.startswith(("log_", "tangent")):
            return 100 * np.expm1(values - start)
        return 100 * (values - start) / abs(start)


def _log_eigenvalues(arrays):
    """log10 of the eigenvalues (G, T, A, D), floored where they are zero by rounding."""
    values = arrays["eigenvalues"]
    return np.log10(np.maximum(values, FLOOR * values[..., :1]))


def _time_title(arrays, i):
    return f"t = {arrays['t'][i]} of {arrays['n_T']}, σ = {arrays['sigma'][i]:.2f}"
