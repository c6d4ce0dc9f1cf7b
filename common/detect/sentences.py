"""What detect.py found, in words and as a table, from nothing but the numbers of its result."""

from common.detect import leads
from common.detect.streams import FID
from common.detect.thresholds import NOT_GAUSSIAN
from common.machine import storage


def verdict(result):
    """The result in words, computed from its numbers."""
    n, horizon = len(result["controls"]), result["horizon"]
    longest = max(judged["n_generations"] for judged in result["runs"])
    unjudged = "; later ones are drawn, not judged"
    lines = [
        f"Judged are the first {horizon} of {longest} generations, which every control loop has, "
        f"too{unjudged if longest > horizon else ''}. In each stream a loop without change is to "
        f"alarm there with probability {result['alpha']:g}."
    ]
    for name in (result["primary"], FID):
        lines.append(_of_stream(name, result["streams"][name], n, horizon))
    lines.append(
        f"In some stream or other {sum(result['control_alarms'])} of {n} control loops alarmed: at "
        f"most {result['certified_rate']:.0%} for all of them together."
    )
    for judged in result["runs"]:
        here, there = judged["onsets"][result["primary"]], judged["onsets"][FID]
        lines.append(
            f"{storage.shown(judged['folder'])}: {result['primary']} (primary) {_when(here)}, "
            f"{FID} {_when(there)}: {_lead_text(judged['lead'])}."
        )
    if result["leads"]["n_loops"] > 1:
        lines.append(_over_loops(result["leads"]))
    else:
        lines.append("One loop is one observation: it says nothing about the next.")
    lines.append(f"Every stream but the primary one and {FID} is exploratory.")
    return "\n".join(lines)


def _of_stream(name, stream, n_controls, horizon):
    """What the threshold of one stream is, and what it rests on."""
    if not stream["monitored"]:
        return f"{name} is constant in the controls: it has no scale, and is not judged."
    way = {"up": "above", "down": "below"}.get(stream["direction"], "beyond")
    sign = "-" if stream["direction"] == "down" else ""
    n_alarms, p = stream["control_alarms"], stream["normality"]
    method = "Gaussian controls"
    if stream["method"] == "rank":
        method = f"the rank of control generations, which are not Gaussian: p = {p:.2g}"
    elif p < NOT_GAUSSIAN:
        method = (
            f"as if its controls were Gaussian, which they are not (p = {p:.2g}) and too few for "
            "their rank: trust the count"
        )
    return (
        f"{name} alarms {way} z = {sign}{stream['threshold']:.2f} ({method}). Left out in turn, "
        f"{n_alarms} of {n_controls} control loops alarmed: a false-alarm rate of at most "
        f"{stream['certified_rate']:.0%} for the first {horizon} generations (95 % confidence)."
    )


def _over_loops(summary):
    """A summary of leads in words."""
    median, interval = leads.in_words(summary)
    return (
        f"Over {summary['n_loops']} loops the spectrum was first in "
        f"{summary['n_candidate_first']}, FID in {summary['n_reference_first']}, "
        f"{summary['n_ties']} ties, no alarm of either in {summary['n_undefined']}; sign test p = "
        f"{summary['p_value']:.3g}; median lead {median}, {interval}. All loops are judged by the "
        "same controls, whose error neither p nor an interval has."
    )


def _lead_text(lead):
    """The lead of one loop in words."""
    value, censored = lead["value"], lead["censored"]
    if censored == "both":
        return "no alarm in either, so there is no lead"
    if value == 0 and censored == "none":
        return "at the same generation"
    bound = "" if censored == "none" else "at least "  # the later one had not alarmed at the end
    leads = "lags" if value < 0 or censored == "left" else "leads"
    plural = "" if abs(value) == 1 else "s"
    return f"the spectrum {leads} by {bound}{abs(value)} generation{plural}"


def _when(onset):
    if onset is None:
        return "never alarmed"
    return f"alarmed at generation {onset['generation']} ({onset['direction']})"


def table(result):
    """The result as a table for the terminal, one line per stream."""
    names = list(result["runs"][0]["onsets" if result["calibrated"] else "changes"])
    width = max(map(len, names))
    kind = "change from generation 0"
    if result["calibrated"]:
        kind = f"first alarm in generations 0 to {result['horizon'] - 1}"
    lines = [f"{'stream':<{width}}  {kind}"]
    for name in names:
        cells = []
        for judged in result["runs"]:
            if result["calibrated"]:
                cells.append(_onset_cell(result["streams"][name], judged["onsets"][name]))
            else:
                cell = judged["changes"][name]
                interval = "" if cell["interval"] is None else f" +- {cell['interval']:.2g}"
                cells.append(f"{cell['change']:+.3g}{interval}")
        mark = "  (primary)" if name == result["primary"] else ""
        lines.append(f"{name:<{width}}  {'  '.join(cells)}{mark}")
    return "\n".join(lines)


def _onset_cell(stream, at):
    if not stream["monitored"]:
        return "constant"
    return "-" if at is None else f"{at['generation']} ({at['direction']})"
