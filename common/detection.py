"""Onset and lead time: when a loop left what its controls do, in the spectrum and in FID.

The statistics are in `onset`; this module reads the runs, judges them and states the verdict.
"""

import numpy as np

from common import anchors, onset, processes, report, spectrum_plots, storage, streams
from common.errors import UserError, one_line
from common.run import Run

UNCALIBRATED = (
    "uncalibrated: without control loops a change cannot be told from the recipe or from chance"
)


@processes.led
def main(constants):
    """What jacobian/detect.py runs."""
    with one_line():
        loops = [streams.load(folder, constants.w) for folder in constants.runs]
        controls = [streams.load(folder, constants.w) for folder in constants.controls]
        for other in [*loops, *controls]:
            if other.names != loops[0].names:
                raise UserError(
                    f"{other.folder} was measured at other timesteps than the first run"
                )
        primary = _primary(loops[0], constants)
        home = Run(loops[0].folder, constants.w)
        if len(controls) == 1:
            raise UserError("one control loop cannot be calibrated: list two or more in controls")
        if controls:
            result, calibration = _judged(loops, controls, primary, constants)
        else:
            result, calibration = _uncalibrated(loops, primary), None
        names = ("primary", "primary_t", "alpha", "seed")
        result["constants"] = {name: getattr(constants, name) for name in names}
        storage.save_json(result, home.table("onset", "json"))
        figure = spectrum_plots.onsets(loops, controls, calibration, primary)
        storage.save_figure(figure, home.figure("onset"))
        print(_table(result))
        print(result["verdict"])
        print(f"  {home.table('onset', 'json')}\n  {home.figure('onset')}")
        report.announce(report.write(home.folder, home.w))


def _primary(loop, constants):
    """The name of the primary stream, its timestep scaled to the loop's n_T."""
    n_T = int(anchors.load(Run(loop.folder, constants.w).table("spectra", "npz"))["n_T"])
    name = f"{constants.primary} t={anchors.scaled([constants.primary_t], n_T)[0]}"
    if name not in loop.names:
        raise UserError(
            f"primary_t = {constants.primary_t} is not a timestep of the spectra: {loop.t}"
        )
    return name


def _judged(loops, controls, primary, constants):
    """The verdict against control loops, and the calibration it rests on."""
    horizon = max(len(loop.generations) for loop in loops)
    length = min(len(control.generations) for control in controls)
    null = np.stack([control.values[:length] for control in controls])
    calibration = onset.calibrate(null, horizon, constants.alpha, seed=constants.seed)
    judged, leads = [], []
    for loop in loops:
        onsets = dict(zip(loop.names, calibration.onsets(loop.values), strict=True))
        lead = onset.lead(onsets[primary], onsets["fid"], len(loop.generations))
        leads.append(lead)
        judged.append({"folder": str(loop.folder), "onsets": onsets, "lead": lead._asdict()})
    monitored = dict(zip(loops[0].names, calibration.monitored, strict=True))
    summary = onset.summarise_leads(leads, seed=constants.seed)
    result = {
        "calibrated": True,
        "alpha": constants.alpha,
        "primary": primary,
        "reference": "fid",
        "threshold": calibration.threshold,
        "threshold_parts": calibration.threshold_parts,
        "controls": [str(control.folder) for control in controls],
        "control_alarms": calibration.control_alarms.tolist(),
        "certified_rate": calibration.certified_rate,
        "not_monitored": [name for name, used in monitored.items() if not used],
        "runs": judged,
        "leads": summary,
    }
    result["verdict"] = _verdict(result)
    return result, calibration


def _verdict(result):
    """The result in words, computed from its numbers."""
    alarms, n = sum(result["control_alarms"]), len(result["controls"])
    lines = [
        f"Threshold {result['threshold']:.2f} for alpha = {result['alpha']:g}; left out in turn, "
        f"{alarms} of {n} control loops alarmed, which certifies a false-alarm rate of at most "
        f"{result['certified_rate']:.0%} (95 % confidence, whatever the distribution)."
    ]
    for judged in result["runs"]:
        here, there = judged["onsets"][result["primary"]], judged["onsets"]["fid"]
        lines.append(
            f"{judged['folder']}: {result['primary']} (primary) {_when(here)}, FID {_when(there)}: "
            + _lead_text(judged["lead"])
        )
    leads = result["leads"]
    if leads["n_loops"] > 1:
        lines.append(
            f"Over {leads['n_loops']} loops the spectrum was first in "
            f"{leads['n_candidate_first']}, FID in {leads['n_reference_first']}, "
            f"{leads['n_ties']} ties; sign test p = {leads['p_value']:.3g}; median lead "
            f"{leads['median_low']} to {leads['median_high']} ({leads['median_is']}), "
            f"bootstrap interval {leads['interval_low']} to {leads['interval_high']}."
        )
    else:
        lines.append("One loop is one observation: it says nothing about the next.")
    lines.append("Every stream but the primary one and FID is exploratory.")
    return "\n".join(lines)


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


def _when(generation):
    return "never alarmed" if generation is None else f"alarmed at generation {generation}"


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


def _table(result):
    """The result as a table for the terminal, one line per stream."""
    names = list(result["runs"][0]["onsets" if result["calibrated"] else "changes"])
    width = max(map(len, names))
    kind = "first alarm (generation)" if result["calibrated"] else "change from generation 0"
    lines = [f"{'stream':<{width}}  {kind}"]
    for name in names:
        cells = []
        for judged in result["runs"]:
            if result["calibrated"]:
                unused = name in result["not_monitored"]
                onset_ = judged["onsets"][name]
                cells.append("constant" if unused else "-" if onset_ is None else str(onset_))
            else:
                cell = judged["changes"][name]
                interval = "" if cell["interval"] is None else f" +- {cell['interval']:.2g}"
                cells.append(f"{cell['change']:+.3g}{interval}")
        mark = "  (primary)" if name == result["primary"] else ""
        lines.append(f"{name:<{width}}  {'  '.join(cells)}{mark}")
    return "\n".join(lines)
