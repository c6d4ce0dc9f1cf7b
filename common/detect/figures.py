"""The figure of a detection: every stream over the generations, with its threshold and alarms."""

from collections import Counter

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.detect import streams
from common.detect.streams import FID
from common.run import style

ARROWS = {1: "↑", -1: "↓", 0: "↕"}
LOSS = streams.KINDS["denoising_loss"].name
LINEAR = 3  # z-scores beyond this are drawn by their logarithm
ALARM = {"ms": 8, "mfc": "white", "mew": 1.4, "ls": "", "zorder": 3, "clip_on": False}
EXPLORED = "0.45"  # the grey of the names of streams that alarm both ways
UNJUDGED = {"fc": "none", "ec": style.FAINT, "hatch": "////", "lw": 0}
METRIC = {"color": "black", "marker": ".", "ls": "-"}  # the style of streams without a timestep


def onsets(loops, controls, calibration, primary):
    """All streams over the generations, a panel for each kind, a colour, marker and line for each
    timestep and set of anchors: first the primary and its rivals, FID and the denoising loss, last
    (grey) those whose direction was not named beforehand.

    Calibrated: z-scores, which the detector compares with the threshold (dashed) on the side that
    the arrow names; grey: what control generations do; triangle: the first alarm, with its
    direction; hatched: generations that are not judged. Otherwise: the change since generation 0,
    with its 95 % interval over anchors where there are.
    """
    groups = {}
    for name in loops[0].names:
        groups.setdefault(streams.kind_and_place(name)[0], []).append(name)
    groups = dict(sorted(groups.items(), key=lambda group: _rank(*group, primary)))
    places = dict.fromkeys(streams.kind_and_place(name)[1] for name in loops[0].names)
    styles = {place: style.style(i) for i, place in enumerate(filter(None, places))}
    figure, panels = style.panels(len(groups), "", 1.3)
    figure.suptitle(_title(loops, calibration, primary))
    for axes, (kind, names) in zip(panels, groups.items(), strict=True):
        for name in names:
            look = styles.get(streams.kind_and_place(name)[1], METRIC)
            look = look | {"lw": 2 if name == primary else 0.9, "ms": 3}
            if calibration is None:
                _change(axes, loops, name, look)
            else:
                _z_scores(axes, loops, controls, calibration, name, look)
        mark = f" (primary: t = {primary.split('=')[1]})" if primary in names else ""
        direction = streams.direction(names[0])
        text = style.wrapped(f"{kind}\u00a0{ARROWS[direction]}{mark}", 28)
        weight = "bold" if _rank(kind, names, primary) < 3 else "normal"
        axes.set_title(text, fontsize=7, weight=weight, color="black" if direction else EXPLORED)
        axes.axhline(0, color="black", lw=0.6)
        style.generation_axis(axes, [g for loop in loops for g in loop.generations])
    if calibration is not None:
        _share_z(panels, loops, calibration)
    style.label_below(panels, "generation")
    for axes in panels[::4]:
        axes.set_ylabel("change" if calibration is None else "z-score")
    unjudged = calibration is not None and _last(loops) >= calibration.horizon
    keys = _keys(styles, len(controls), calibration, unjudged)
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def _rank(kind, names, primary):
    """Where the panel of a kind of streams comes: the lower the earlier."""
    there = [primary in names, kind == FID, kind == LOSS, streams.direction(names[0]) != 0, True]
    return there.index(True)


def _title(loops, calibration, primary):
    if calibration is None:
        return "UNCALIBRATED (no control loops): change since generation 0"
    loss = f"{LOSS} t={primary.partition(' t=')[2]}"
    named = [name for name in dict.fromkeys((primary, FID, loss)) if name in loops[0].names]
    found = [dict(zip(loops[0].names, calibration.onsets(x.values), strict=True)) for x in loops]
    lines = [f"First alarm in generations 0 to {calibration.horizon - 1}"]
    for name in named:
        alarms = Counter(np.inf if of[name] is None else of[name].generation for of in found)
        many = len(loops) > 1
        texts = [
            ("never" if at == np.inf else f"at {at}") + many * f" in {n} of {len(loops)}"
            for at, n in sorted(alarms.items())
        ]
        lines.append(f"{name}: {', '.join(texts)}")
    return "\n".join(lines)


def _change(axes, loops, name, look):
    """The change of one stream since generation 0, in every loop."""
    for loop in loops:
        values = loop.of(name) - loop.of(name)[0]
        if name in loop.per_anchor:
            differences = loop.per_anchor[name] - loop.per_anchor[name][0]
            error = 1.96 * differences.std(axis=1, ddof=1) / differences.shape[1] ** 0.5
            low, high = values - error, values + error
            axes.fill_between(loop.generations, low, high, color=look["color"], alpha=0.15, lw=0)
        axes.plot(loop.generations, values, **look)


def _z_scores(axes, loops, controls, calibration, name, look):
    """One stream of every loop against the controls' range, with its threshold and first alarms."""
    column = loops[0].names.index(name)
    null = np.concatenate([calibration.z(control.values)[:, column] for control in controls])
    style.band(axes, null, None)
    height, direction = calibration.threshold[column], calibration.direction[column]
    if calibration.monitored[column]:
        for sign in (1, -1) if direction == 0 else (direction,):
            axes.axhline(sign * height, color="black", lw=0.8, ls="--", zorder=1)
    for loop in loops:
        z = calibration.z(loop.values)[:, column]
        axes.plot(loop.generations, z, **look)
        if first := calibration.onsets(loop.values)[column]:
            at = loop.generations[first.generation], z[first.generation]
            axes.plot(*at, **ALARM, marker="^" if first.sign > 0 else "v", mec=look["color"])


def _share_z(panels, loops, calibration):
    """The same axes for all panels of z-scores, the logarithm of large ones; and the horizon."""
    low = 1.5 * min(axes.get_ylim()[0] for axes in panels)  # room for triangles
    high = 1.5 * max(axes.get_ylim()[1] for axes in panels)
    last = _last(loops)
    decades = max(0, int(np.log10(max(-low, high, LINEAR) / LINEAR)))
    heights = LINEAR * 10.0 ** np.arange(0, decades + 1, -(-(decades + 1) // 3))
    ticks = [tick for tick in (*-heights, 0, *heights) if low <= tick <= high]
    for axes in panels:
        axes.set_yscale("symlog", linthresh=LINEAR)
        axes.set_ylim(low, high)
        axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        if last >= calibration.horizon:
            unjudged = calibration.horizon - 0.5, last + 0.5
            axes.axvspan(*unjudged, **UNJUDGED, zorder=0)


def _last(loops):
    return max(loop.generations[-1] for loop in loops)


def _keys(styles, n_controls, calibration, unjudged):
    """What the lines and marks of `onsets` mean."""
    keys = [Line2D([], [], label=f"t = {place}", **look) for place, look in styles.items()]
    keys.append(Line2D([], [], label="metric of samples", **METRIC))
    keys.append(Line2D([], [], ls="", label="↑ ↓ the side of alarms"))
    keys.append(Line2D([], [], ls="", label="grey title: exploratory"))
    if calibration is not None:
        keys += [
            Patch(color=style.BAND, label=f"range of {n_controls} control loops"),
            Line2D([], [], color="black", lw=0.8, ls="--", label="threshold"),
            Line2D([], [], label="first alarm, upwards", **ALARM, marker="^", mec="black"),
            Line2D([], [], label="first alarm, downwards", **ALARM, marker="v", mec="black"),
            Line2D([], [], ls="", label=f"axis: logarithmic beyond ±{LINEAR}"),
        ]
    if unjudged:
        keys.append(Patch(**UNJUDGED, label="not judged"))
    return keys
