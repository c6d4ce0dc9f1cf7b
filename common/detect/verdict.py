"""Onset and lead time: when a loop left what its controls do, in the spectrum and in FID.

This module reads the runs, has them judged (`thresholds`, `leads`) and writes what follows.
"""

import math

import numpy as np

from common.detect import figures, leads, sentences, streams, thresholds
from common.detect.streams import FID
from common.detect.thresholds import WAYS
from common.machine import processes, storage
from common.machine.errors import UserError, one_line
from common.page import report
from common.run import comparable, provenance
from common.run.folder import Run
from common.spectrum import measure

UNCALIBRATED = (
    "uncalibrated: without control loops a change cannot be told from the recipe or from chance"
)


@processes.led
def main(constants):
    """What jacobian/detect.py runs."""
    with one_line():
        loops = [streams.load(folder, constants.w) for folder in _spread(constants.runs)]
        controls = [streams.load(folder, 0) for folder in _spread(constants.controls)]  # no w
        comparable.check_loops([loop.provenance for loop in loops])
        comparable.check_controls(
            [loop.provenance for loop in loops], [control.provenance for control in controls]
        )
        names = loops[0].names
        loops, controls = ([run.only(names) for run in runs] for runs in (loops, controls))
        primary = _primary(loops[0], constants)
        left_out = _not_finite([*loops, *controls], primary)
        names = [name for name in names if name not in left_out]
        loops, controls = ([run.only(names) for run in runs] for runs in (loops, controls))
        first = loops[0].folder
        of_study = first.suffix == ".npz"
        home = Run(first.parent if of_study else first, constants.w)
        if len(controls) == 1:
            raise UserError("one control loop cannot be calibrated: list two or more in controls")
        if controls:
            result, calibration = _judged(loops, controls, primary, constants)
        else:
            result, calibration = _uncalibrated(loops, primary), None
        for name, folder in left_out.items():
            result["verdict"] += f"\n{name} is not judged: it is not finite in {folder}."
        for text in _remarks(loops, constants.w):
            result["verdict"] += f"\n{text}"
        names = ("primary", "primary_t", "alpha", "seed")
        result["constants"] = {name: getattr(constants, name) for name in names}
        storage.save_json(plain(result), home.table("onset", "json"))
        figure = figures.onsets(loops, controls, calibration, primary)
        storage.save_figure(figure, home.figure("onset"))
        print(sentences.table(result))
        print(result["verdict"])
        for path in (home.table("onset", "json"), home.figure("onset")):
            print(f"  {storage.shown(path)}")
        if not of_study:  # whose own report is that of its folder
            report.announce(report.write(home.folder, home.w))


def _spread(paths):
    """The paths; where a name has a *, those that it matches, sorted."""
    for path in paths:
        found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        if not found:
            raise UserError(f"no file or folder is {path}")
        yield from found


def _not_finite(runs, primary):
    """{stream: the first folder in which it is not finite}, as entropy is not where all samples are
    equal; UserError when one of them is compared."""
    left_out = {}
    for run in runs:
        finite = np.isfinite(run.values).all(0)
        for name in (name for name, good in zip(run.names, finite, strict=True) if not good):
            left_out.setdefault(name, run.folder)
    for name in (primary, FID):
        if name in left_out:
            raise UserError(f"{name} is not finite in {left_out[name]}: nothing can be compared")
    return left_out


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
    calibration = thresholds.calibrate(null, horizon, constants.alpha, direction)
    judged, found = [], []
    for loop in loops:
        onsets = dict(zip(names, calibration.onsets(loop.values), strict=True))
        n_judged = min(len(loop.generations), horizon)
        here, there = (onsets[name] and onsets[name].generation for name in (primary, FID))
        found.append(leads.lead(here, there, n_judged))
        judged.append(
            {
                "folder": str(loop.folder),
                "n_generations": len(loop.generations),
                "n_judged": n_judged,
                "onsets": {
                    name: at and {"generation": at.generation, "direction": WAYS[at.sign]}
                    for name, at in onsets.items()
                },
                "lead": found[-1]._asdict(),
            }
        )
    result = {
        "calibrated": True,
        "alpha": constants.alpha,
        "horizon": horizon,
        "primary": primary,
        "reference": FID,
        "streams": {
            name: {
                "monitored": bool(calibration.monitored[s]),
                **calibration.described(s),
                "control_alarms": int(calibration.control_alarms[:, s].sum()),
                "certified_rate": calibration.certified_rate[s],
            }
            for s, name in enumerate(names)
        },
        "controls": [str(control.folder) for control in controls],
        "n_control_generations": sum(lengths),
        "control_alarms": calibration.control_alarms.any(1).tolist(),
        "certified_rate": calibration.family_rate,
        "runs": judged,
        "leads": leads.summarise(found, seed=constants.seed),
    }
    result["verdict"] = sentences.verdict(result)
    return result, calibration


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


def plain(value, digits=17):
    """A result for strict JSON and CSV: plain numbers of so many digits (17: all of them), None for
    infinite and NaN."""
    if isinstance(value, dict):
        return {key: plain(part, digits) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, digits) for part in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
