"""Onset and lead time: when a loop left what its controls do, in the spectrum and in FID.

The statistics are in `onset`; this module reads the runs, judges them and states the verdict.
"""

import math

from common.detect import figures, onset, streams
from common.detect.streams import FID
from common.machine import processes, storage
from common.machine.errors import UserError, one_line
from common.page import report
from common.run import provenance
from common.run.folder import Run
from common.spectrum import measure

UNCALIBRATED = (
    "uncalibrated: without control loops a change cannot be told from the recipe or from chance"
)
WAYS = {1: "up", -1: "down", 0: "either way"}


@processes.led
def main(constants):
    """What jacobian/detect.py runs."""
    with one_line():
        loops = [streams.load(folder, constants.w) for folder in constants.runs]
        controls = [streams.load(folder, 0) for folder in constants.controls]  # they have no w
        provenance.check_loops([loop.provenance for loop in loops])
        provenance.check_controls(
            [loop.provenance for loop in loops], [control.provenance for control in controls]
        )
        names = loops[0].names
        loops, controls = ([run.only(names) for run in runs] for runs in (loops, controls))
        primary = _primary(loops[0], constants)
        home = Run(loops[0].folder, constants.w)
        if len(controls) == 1:
            raise UserError("one control loop cannot be calibrated: list two or more in controls")
        if controls:
            result, calibration = _judged(loops, controls, primary, constants)
        else:
            result, calibration = _uncalibrated(loops, primary), None
        for text in _remarks(loops, constants.w):
            result["verdict"] += f"\n{text}"
        names = ("primary", "primary_t", "alpha", "seed")
        result["constants"] = {name: getattr(constants, name) for name in names}
        storage.save_json(_finite(result), home.table("onset", "json"))
        figure = figures.onsets(loops, controls, calibration, primary)
        storage.save_figure(figure, home.figure("onset"))
        print(_table(result))
        print(result["verdict"])
        for path in (home.table("onset", "json"), home.figure("onset")):
            print(f"  {storage.shown(path)}")
        report.announce(report.write(home.folder, home.w))


def _primary(loop, constants):
    """The name of the primary stream, its timestep scaled to the loop's n_T."""
    t = measure.scaled([constants.primary_t], loop.n_T)[0]
    name = streams.name_of(constants.primary, t)
    if name not in loop.names and t in loop.t:
        raise UserError(
            f"{loop.folder} has no stream {name!r}: measure it with this version of "
            "jacobian/spectra.py"
        )
    if name not in loop.names:
        raise UserError(
            f"primary_t = {constants.primary_t} is not a timestep of the spectra: {loop.t}"
        )
    return name


def _judged(loops, controls, primary, constants):
    """The verdict against control loops, and the calibration it rests on."""
    lengths = [len(control.generations) for control in controls]
    if sum(lengths) - max(lengths) < 2:
        raise UserError(
            f"{len(controls)} control loops of {max(lengths)} generation cannot judge one another: "
            "give more controls, or longer ones"
        )
    horizon = min(max(len(loop.generations) for loop in loops), *lengths)
    names, direction = loops[0].names, [streams.direction(name) for name in loops[0].names]
    null = [control.values for control in controls]
    calibration = onset.calibrate(null, horizon, constants.alpha, direction)
    judged, leads = [], []
    for loop in loops:
        onsets = dict(zip(names, calibration.onsets(loop.values), strict=True))
        n_judged = min(len(loop.generations), horizon)
        here, there = (onsets[name] and onsets[name].generation for name in (primary, FID))
        leads.append(onset.lead(here, there, n_judged))
        judged.append(
            {
                "folder": str(loop.folder),
                "n_generations": len(loop.generations),
                "n_judged": n_judged,
                "onsets": {
                    name: at and {"generation": at.generation, "direction": WAYS[at.sign]}
                    for name, at in onsets.items()
                },
                "lead": leads[-1]._asdict(),
            }
        )
    result = {
        "calibrated": True,
        "alpha": constants.alpha,
        "horizon": horizon,
        "primary": primary,
        "reference": FID,
        "streams": _of_streams(names, calibration),
        "controls": [str(control.folder) for control in controls],
        "n_control_generations": sum(lengths),
        "control_alarms": calibration.control_alarms.any(1).tolist(),
        "certified_rate": calibration.family_rate,
        "runs": judged,
        "leads": onset.summarise_leads(leads, seed=constants.seed),
    }
    result["verdict"] = _verdict(result)
    return result, calibration


def _of_streams(names, calibration):
    """What the calibration says about each stream {name: {...}}."""
    return {
        name: {
            "monitored": bool(calibration.monitored[s]),
            "direction": WAYS[int(calibration.direction[s])],
            "mean": float(calibration.mean[s]),
            "sd": float(calibration.sd[s]),
            "threshold": float(calibration.threshold[s]),
            "method": "rank" if calibration.by_rank[s] else "Gaussian",
            "control_alarms": int(calibration.control_alarms[:, s].sum()),
            "certified_rate": float(calibration.certified_rate[s]),
            "normality_p": float(calibration.normality[s]),
        }
        for s, name in enumerate(names)
    }


def _verdict(result):
    """The result in words, computed from its numbers."""
    n, horizon = len(result["controls"]), result["horizon"]
    longest = max(judged["n_generations"] for judged in result["runs"])
    unjudged = f"; the {longest - horizon} after them are drawn, not judged"
    lines = [
        f"Judged are the first {horizon} of {longest} generations, as many as every control loop "
        f"has{unjudged if longest > horizon else ''}. In each stream a loop without change is to "
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
            f"{judged['folder']}: {result['primary']} (primary) {_when(here)}, {FID} "
            f"{_when(there)}: {_lead_text(judged['lead'])}."
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
    n_alarms, p = stream["control_alarms"], stream["normality_p"]
    method = "Gaussian controls"
    if stream["method"] == "rank":
        method = f"the rank of control generations, which are not Gaussian: p = {p:.2g}"
    elif p < onset.NOT_GAUSSIAN:
        method = (
            f"as if its controls were Gaussian, which they are not (p = {p:.2g}) and too few for "
            "their rank: trust the count"
        )
    return (
        f"{name} alarms {way} z = {sign}{stream['threshold']:.2f} ({method}). Left out in turn, "
        f"{n_alarms} of {n_controls} control loops alarmed: a false-alarm rate of at most "
        f"{stream['certified_rate']:.0%} for the first {horizon} generations (95 % confidence)."
    )


def _over_loops(leads):
    """The leads of several loops in words."""
    limits = [leads[name] for name in ("interval_low", "interval_high")]
    low, high = ("unbounded" if math.isinf(limit) else f"{limit:g}" for limit in limits)
    return (
        f"Over {leads['n_loops']} loops the spectrum was first in {leads['n_candidate_first']}, "
        f"FID in {leads['n_reference_first']}, {leads['n_ties']} ties, no alarm of either in "
        f"{leads['n_undefined']}; sign test p = {leads['p_value']:.3g}; median lead "
        f"{_median_text(leads)}, bootstrap interval {low} to {high}."
    )


def _median_text(leads):
    low, high, kind = leads["median_low"], leads["median_high"], leads["median_is"]
    if kind == "between":
        return f"between {low:g} and {high:g}"
    if kind == "unknown":
        return kind
    number = f"{high if math.isinf(low) else low:g}"
    return number if kind == "exact" else f"{kind} {number}"


def _lead_text(lead):
    value, censored = lead["value"], lead["censored"]
    if censored == "both":
        return "no alarm in either, so there is no lead"
    if value == 0 and censored == "none":
        return "at the same generation"
    bound = "" if censored == "none" else "at least "  # the later one had not alarmed at the end
    leads = "lags" if value < 0 or censored == "left" else "leads"
    plural = "" if abs(value) == 1 else "s"
    return f"the spectrum {leads} by {bound}{abs(value)} generation{plural}"


def _when(onset_):
    if onset_ is None:
        return "never alarmed"
    return f"alarmed at generation {onset_['generation']} ({onset_['direction']})"


def _remarks(loops, w):
    """What else a reader must know: a change of recipe at generation 0, and what no file tells."""
    for loop in loops:
        record = provenance.recorded(Run(loop.folder, w))
        initial = loop.folder / "run_initial.json"
        if record and initial.exists():
            made = storage.load_json(initial)["constants"]
            provenance.check_initial(record["constants"], made)
            if text := provenance.initial_differences(record["constants"], made):
                yield f"{loop.folder}: {text}."
        if text := provenance.unknown(loop.provenance):
            yield f"{loop.folder}: unknown, so not compared: {text}."


def _uncalibrated(loops, primary):
    """Changes from generation 0 to the last, with 95 % intervals over anchors where there are."""
    judged = []
    for loop in loops:
        changes = {}
        for name in loop.names:
            change = float(loop.of(name)[-1] - loop.of(name)[0])
            error = None
            if name in loop.per_anchor:
                differences = loop.per_anchor[name][-1] - loop.per_anchor[name][0]
                error = float(1.96 * differences.std(ddof=1) / len(differences) ** 0.5)
            changes[name] = {"change": change, "interval": error}
        judged.append({"folder": str(loop.folder), "changes": changes})
    return {
        "calibrated": False,
        "primary": primary,
        "runs": judged,
        "verdict": f"{UNCALIBRATED}; no onset is claimed.",
    }


def _finite(value):
    """A result without what JSON has no number for: infinite and NaN become None."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(result):
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
