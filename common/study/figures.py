"""The figures of a study: each function returns a matplotlib Figure of Study, Question and {arm:
Judged}. Streams in question have intervals, the three strongest others none, the rest are grey."""

import numpy as np
from matplotlib.ticker import PercentFormatter

from common.detect.leads import LEAST_LOOPS
from common.machine import storage
from common.run import style
from common.study.power import CONTROL

N_OTHERS = 3
UNDER = {"fc": "white", "ec": "none", "pad": 0.3}  # what hides lines under a number
WIDE = {"width": style.TWO, "sharey": True}
CAPTIONS = {
    "power.png": "Power curves: fraction of loops detected by a generation, with 95 % intervals "
    "over loops and controls for those in question; coloured without interval: the three others "
    "that are detected most; grey: the rest; controls are judged by one another; dotted: the false "
    "alarms asked for over the whole horizon",
    "dose_response.png": "Dose-response: fraction of loops detected, against the fraction of the "
    "training set that is synthetic",
    "leads.png": "Leads: generations by which the primary stream alarmed before another, "
    "with the number of loops; hollow triangles where one of the two had not alarmed at the end; "
    "thick mark and bar: the median, in which loops without any alarm count, and of six loops or "
    "more its interval",
    "spectra.png": "Mean spectra: eigenvalues of JᵀJ of self-consuming loops, as ratios to their "
    "geometric mean over control models, from the smallest to the largest; grey: the range of the "
    "control models",
}


def emphasised(study, question, judged):
    """{stream: its style}: those in question, then the three others that are detected
    most often in the first generation, then most strongly."""
    arms = [judged[arm] for arm in study.arms]
    strength = sum(of.detected[0] / len(of.times) + 1e-6 * np.abs(of.effect[0]) for of in arms)
    order = np.argsort(-np.nan_to_num(strength), kind="stable")
    others = [study.names[s] for s in order if study.names[s] not in question.streams]
    shown = [*question.streams, *others[:N_OTHERS]]
    return {name: style.style(i) for i, name in enumerate(shown)}


def mean_spectra(study, question, folder):
    """A panel per timestep with the eigenvalues of J^T J in the loops of the highest dose, a line
    per generation, from the unit files in a folder; means are over anchors, then loops, of
    logarithms."""

    def logs(arm, seed):
        unit = storage.load_arrays(folder / f"{arm}_seed{seed}.npz", "jacobian/study.py")
        later = unit["generations"] >= 0
        return unit, unit["mean_log_eigenvalues"][later][: question.horizon].astype(float)

    arm = list(study.arms)[-1]
    loops = np.stack([logs(arm, seed)[1] for seed in study.seeds[arm]])  # (n, G, T, D)
    units = [logs(CONTROL, seed) for seed in study.seeds[CONTROL]]
    null = np.concatenate([of for _, of in units])  # (n G, T, D)
    centre = null.mean(axis=0)
    low, high = (np.exp(ends - centre) for ends in (null.min(axis=0), null.max(axis=0)))
    curves = np.exp(loops.mean(axis=0) - centre)
    times, generations = units[0][0]["t"], range(curves.shape[0])
    title = f"{len(loops)} loops of arm {arm} against {len(null)} control models"
    figure, panels = style.panels(len(times), title, 2.0, columns=3, sharey=True)
    rank = np.arange(curves.shape[2], 0, -1)
    for i, axes in enumerate(panels):
        axes.fill_between(rank, low[i], high[i], color=style.BAND, lw=0)
        for row, colour in zip(curves[:, i], style.generation_colours(len(curves)), strict=True):
            axes.plot(rank, row, color=colour)
        axes.axhline(1, color="black", lw=0.6)
        axes.set(title=f"t = {times[i]}", xscale="log", yscale="log")
    style.label_below(panels, "rank from the smallest (log axis)")
    panels[0].set_ylabel("eigenvalue of $J^TJ$ / controls' (log axis)")
    style.generation_bar(figure, panels, list(generations))
    return figure


def power_curves(study, question, judged):
    """A panel per arm: generation against the fraction of loops detected."""
    styles = emphasised(study, question, judged)
    figure, panels = style.panels(len(judged), "", 1.9, columns=3, **WIDE)
    generations = np.arange(question.horizon)
    for axes, (arm, of) in zip(panels, judged.items(), strict=True):
        n = len(of.times)
        axes.plot(generations, of.detected[:, _others(study, styles)] / n, color="0.8", lw=0.6)
        shifts = 0.05 * _centred(len(styles))  # so that none hides another
        for shift, (name, look) in zip(shifts, styles.items(), strict=True):
            x = generations + shift
            _curve(axes, x, of, study.names.index(name), name, look, name in question.streams)
        axes.axhline(question.alpha, color="0.4", ls=":", lw=1)
        axes.set_title(_name(study, arm, n))
        style.generation_axis(axes, generations)
    style.label_below(panels, "generation")
    _finish(figure, panels)
    return figure


def dose_response(study, question, judged):
    """A panel per end of the horizon: dose, on a logarithmic axis, against the detected."""
    styles = emphasised(study, question, judged)
    figure, panels = style.panels(len(question.ends), "", 2.2, columns=2, **WIDE)
    doses, n = np.array(list(study.doses.values())), [len(v) for v in study.arms.values()]
    for axes, g in zip(panels, question.ends, strict=True):
        fractions = np.stack([judged[arm].detected[g] for arm in study.arms]) / np.array(n)[:, None]
        axes.plot(doses, fractions[:, _others(study, styles)], color="0.8", lw=0.6)
        for shift, (name, look) in zip(_centred(len(styles)), styles.items(), strict=True):
            s, x = study.names.index(name), doses * 1.02**shift
            ends = [
                [getattr(judged[arm], end)[g, s] for arm in study.arms] for end in ("low", "high")
            ]
            _errors(axes, x, fractions[:, s], ends, name, look, name in question.streams)
        axes.axhline(0.5, color="0.4", lw=0.8)
        axes.axhline(question.alpha, color="0.4", ls=":", lw=1)
        axes.set(title=f"by generation {g}", xlabel="fraction synthetic (log axis)", xscale="log")
        axes.set_xlim(doses[0] / 1.5, doses[-1] * 1.5)
        axes.set_xticks(doses, labels=[f"{dose:.0%}" for dose in doses])
        axes.set_xticks([], minor=True)
    _finish(figure, panels)
    return figure


def leads(study, question, judged, summaries):
    """A panel per arm and a row per emphasised stream: the leads of the primary over it, with
    median and interval of summaries {arm: {stream: ...}} (None: no limit)."""
    styles = emphasised(study, question, judged)
    others, H = [name for name in styles if name != question.primary], question.horizon
    title = f"lead of {question.primary} over other streams"
    height = 0.5 + 0.33 * len(others)
    figure, panels = style.panels(len(study.arms), title, height, columns=2, **WIDE)
    for axes, arm in zip(panels, study.arms, strict=True):
        times = judged[arm].times
        here = times[:, study.names.index(question.primary)]
        for row, name in enumerate(others):
            there = times[:, study.names.index(name)]
            _lead_row(axes, -row, there - here, (here == H) + 2 * (there == H), styles[name])
            _median(axes, -row - 0.25, summaries[arm][name], H)
        axes.axvline(0, color="0.4", lw=0.8)
        axes.set_title(_name(study, arm, len(times)))
        axes.set(xlim=(-H - 0.7, H + 0.7), ylim=(0.4 - len(others), 0.6), xticks=range(-H, H + 1))
        axes.grid(visible=False, axis="y")
    names = [style.wrapped(name, 34) for name in others]
    panels[0].set_yticks(-np.arange(len(others)), labels=names)  # of all panels: they share it
    style.label_below(panels, "generations (right: primary first)")
    return figure


def _others(study, styles):
    return [s for s, name in enumerate(study.names) if name not in styles]


def _centred(n):
    return np.arange(n) - (n - 1) / 2


def _name(study, arm, n):
    return f"{arm} (n = {n})" if arm == CONTROL else f"{arm}: {study.doses[arm]:.0%} (n = {n})"


def _curve(axes, x, of, s, name, look, in_question):
    ends = of.low[:, s], of.high[:, s]
    _errors(axes, x, of.detected[:, s] / len(of.times), ends, name, look, in_question)


def _errors(axes, x, y, ends, name, look, in_question):
    """A line with markers, and intervals where the stream is in question."""
    y, (low, high) = np.asarray(y), np.asarray(ends)
    errors = [np.maximum(y - low, 0), np.maximum(high - y, 0)] if in_question else None
    axes.errorbar(x, y, errors, elinewidth=0.8, label=name, **look)


def _lead_row(axes, y, lead, censored, look):
    """A mark for each lead that occurs, with the number of loops; censored: 0 not, 1 the primary
    (the lead is at most this), 2 the other (at least), 3 both, and then there is none."""
    colour = look["color"]
    for kind, marker in enumerate((look["marker"], "<", ">")):
        face, shift = (colour, 0) if kind == 0 else ("none", 0.35 * (2 * kind - 3))
        for value, n in zip(*np.unique(lead[censored == kind], return_counts=True), strict=True):
            axes.scatter(value + shift, y, 18, face, marker=marker, edgecolors=colour)
            axes.text(value + shift, y + 0.17, n, size=6, ha="center", bbox=UNDER)


def _median(axes, y, summary, H):
    """The interval of the median as a bar, as long as the axis where it has no limit, and the
    median as a mark, or two where it lies between them."""
    low, high = summary["interval_low"], summary["interval_high"]
    ends = -H - 0.7 if low is None else low, H + 0.7 if high is None else high
    if summary["n_loops"] >= LEAST_LOOPS:
        axes.plot(ends, [y, y], color="black", lw=1.5)
    marks = {summary["median_low"], summary["median_high"]} - {None}
    axes.plot(list(marks), [y] * len(marks), "|", color="black", ms=10, mew=2.5)


def _finish(figure, panels):
    for axes in panels:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set_ylabel("loops detected")
    keys = panels[0].get_legend_handles_labels()
    figure.set_figheight(figure.get_figheight() + 0.08 * len(keys[0]))
    figure.legend(*keys, loc="outside lower center", ncols=2)
