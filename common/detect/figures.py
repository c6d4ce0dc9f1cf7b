"""The figure of a detection: every stream over the generations, with its alarms."""

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.detect import streams
from common.run.plots import BLUE
from common.spectrum.figures import panels_of

Z_TICKS = (-300, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300)


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
    figure, panels = panels_of(len(groups), title, rows=rows, height=2.5, width=3.3)
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
