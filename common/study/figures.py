"""The figures of a study: each function returns a matplotlib Figure of Study, Question and {arm:
Judged}. Streams in question have colours, markers and intervals, the three strongest others
markers, the rest are grey."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.run.plots import BLUE, GREEN, ORANGE, PURPLE
from common.study.power import CONTROL

LEAST_WIDTH, LONGEST_NAME = 7.5, 4.6  # inches, for the names of streams
BROWN, BLACK = "#8C5A00", "#000000"
STYLES = ((ORANGE, "s", "-"), (BLUE, "o", "--"), (GREEN, "^", "-."))
OTHERS = ((PURPLE, "D", ":"), (BROWN, "v", ":"), (BLACK, "P", ":"))
CAPTIONS = {
    "power.png": "Power curves: fraction of loops detected by a generation, with 95 % intervals "
    "over loops and controls; controls are judged by one another; dotted: the false alarms asked "
    "for over the whole horizon; grey: all other streams",
    "dose_response.png": "Dose-response: fraction of loops detected, against the fraction of the "
    "training set that is synthetic",
    "leads.png": "Leads: generations by which the primary stream alarmed before another, "
    "with the number of loops; hollow triangles where one of the two had not alarmed at the end, "
    "bars the median and its interval; loops in which neither alarmed are not shown",
}


def emphasised(study, question, judged):
    """{stream: (colour, marker, line)}: those in question, then the three others that are detected
    most often in the first generation, then most strongly."""
    arms = [judged[arm] for arm in study.arms]
    strength = sum(of.fractions[:, 0].mean(0) + 1e-6 * np.abs(of.effect[0]) for of in arms)
    order = np.argsort(-np.nan_to_num(strength), kind="stable")
    others = [study.names[s] for s in order if study.names[s] not in question.streams]
    return dict(zip(question.streams, STYLES, strict=False)) | dict(
        zip(others, OTHERS, strict=False)
    )


def power_curves(study, question, judged):
    """A panel per arm: generation against the fraction of loops detected."""
    styles = emphasised(study, question, judged)
    figure, panels = _panels(len(judged), 3.4, 3.4)
    generations = np.arange(question.horizon)
    for axes, (arm, of) in zip(panels, judged.items(), strict=True):
        n = len(of.times)
        axes.plot(generations, of.detected[:, _others(study, styles)] / n, color="0.8", lw=0.8)
        shifts = 0.05 * _centred(len(styles))  # so that none hides another
        for shift, (name, style) in zip(shifts, styles.items(), strict=True):
            x = generations + shift
            _curve(axes, x, of, study.names.index(name), name, style, name in question.streams)
        axes.axhline(question.alpha, color="0.4", ls=":", lw=1)
        axes.set(title=_name(study, arm, n), xlabel="generation", xticks=generations)
    _finish(figure, panels)
    return figure


def dose_response(study, question, judged):
    """A panel per end of the horizon: dose, on a logarithmic axis, against the detected."""
    styles = emphasised(study, question, judged)
    figure, panels = _panels(len(question.ends), 4.6, 3.8)
    doses, n = np.array(list(study.doses.values())), [len(v) for v in study.arms.values()]
    for axes, g in zip(panels, question.ends, strict=True):
        fractions = np.stack([judged[arm].detected[g] for arm in study.arms]) / np.array(n)[:, None]
        axes.plot(doses, fractions[:, _others(study, styles)], color="0.8", lw=0.8)
        for shift, (name, style) in zip(_centred(len(styles)), styles.items(), strict=True):
            s, x = study.names.index(name), doses * 1.02**shift
            ends = [
                [getattr(judged[arm], end)[g, s] for arm in study.arms] for end in ("low", "high")
            ]
            _errors(axes, x, fractions[:, s], ends, name, style, name in question.streams)
        axes.axhline(0.5, color="0.4", lw=0.8)
        axes.axhline(question.alpha, color="0.4", ls=":", lw=1)
        axes.set(title=f"by generation {g}", xlabel="fraction synthetic", xscale="log")
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
    figure, panels = _panels(len(study.arms), 3.4, 1.2 + 0.5 * len(others))
    for axes, arm in zip(panels, study.arms, strict=True):
        times = judged[arm].times
        here = times[:, study.names.index(question.primary)]
        for row, name in enumerate(others):
            there = times[:, study.names.index(name)]
            _lead_row(axes, -row, there - here, (here == H) + 2 * (there == H), styles[name])
            _median(axes, -row - 0.25, summaries[arm][name], H)
        axes.axvline(0, color="0.4", lw=0.8)
        axes.set(title=_name(study, arm, len(times)), xlabel="generations (right: primary first)")
        axes.set(xlim=(-H - 0.7, H + 0.7), ylim=(0.4 - len(others), 0.6), xticks=range(-H, H + 1))
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(-np.arange(len(others)), labels=others)  # of all panels: they share it
    figure.suptitle(f"lead of {question.primary} over")
    return figure


def _panels(n, width, height):
    """n panels in as few rows of at most four as can be."""
    rows = -(-n // 4)
    columns = -(-n // rows)
    size = max(width * columns + 1, LEAST_WIDTH), height * rows + 0.6
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).reshape(-1)
    for axes in panels[n:]:
        axes.remove()
    return figure, panels[:n]


def _others(study, styles):
    return [s for s, name in enumerate(study.names) if name not in styles]


def _centred(n):
    return np.arange(n) - (n - 1) / 2


def _name(study, arm, n):
    return f"{arm} (n = {n})" if arm == CONTROL else f"{arm}: {study.doses[arm]:.0%} (n = {n})"


def _curve(axes, x, of, s, name, style, in_question):
    ends = of.low[:, s], of.high[:, s]
    _errors(axes, x, of.detected[:, s] / len(of.times), ends, name, style, in_question)


def _errors(axes, x, y, ends, name, style, in_question):
    """A line with markers, and intervals where the stream is in question."""
    colour, marker, line = style
    y, (low, high) = np.asarray(y), np.asarray(ends)
    errors = [np.maximum(y - low, 0), np.maximum(high - y, 0)] if in_question else None
    axes.errorbar(
        x, y, errors, color=colour, marker=marker, ls=line, ms=5, lw=1.4, elinewidth=1, label=name
    )


def _lead_row(axes, y, lead, censored, style):
    """A mark for each lead that occurs, with the number of loops; censored: 0 not, 1 the primary
    (the lead is at most this), 2 the other (at least), 3 both, and then there is none."""
    for kind, marker in enumerate((style[1], "<", ">")):
        face, shift = (style[0], 0) if kind == 0 else ("none", 0.35 * (2 * kind - 3))
        for value, n in zip(*np.unique(lead[censored == kind], return_counts=True), strict=True):
            axes.scatter(value + shift, y, 26, face, marker=marker, edgecolors=style[0])
            axes.text(value + shift, y + 0.13, n, size=7, ha="center")


def _median(axes, y, summary, H):
    """The interval of the median as a bar, as long as the axis where it has no limit, and the
    median as a mark, or two where it lies between them."""
    low, high = summary["interval_low"], summary["interval_high"]
    ends = -H - 0.7 if low is None else low, H + 0.7 if high is None else high
    axes.plot(ends, [y, y], color="black", lw=1.5)
    marks = {summary["median_low"], summary["median_high"]} - {None}
    axes.plot(list(marks), [y] * len(marks), "|", color="black", ms=10, mew=2.5)


def _finish(figure, panels):
    for axes in panels:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("loops detected")
    keys = panels[0].get_legend_handles_labels()
    columns = int(figure.get_figwidth() // LONGEST_NAME)
    figure.set_figheight(figure.get_figheight() + 0.2 * len(keys[0]) / columns)
    figure.legend(*keys, loc="outside lower center", ncols=columns, fontsize=9)
