"""Generation 0 against the last: the figures and the table of jacobian/compare.py."""

import numpy as np

from common.machine import processes, storage
from common.machine.errors import Refusal, UserError, one_line
from common.page import report
from common.run import comparable, plots, provenance
from common.run.folder import Run, generation_name
from common.seeds import INITIAL
from common.settings import number_text
from common.spectrum import checkpoint, figures, measure
from common.spectrum.jacobian import log_spectrum_distance

# How a run was made: what compare.py compares, where the rest is the same.
MADE = ("scenario", "control", "init_from", "seed", "initial_seed", "w", "recipe", "mixture")
MADE += ("N_train", "N_fixed")


@processes.led
def main(constants):
    """What jacobian/compare.py runs."""
    with one_line():
        names = [_name(folder) for folder in constants.runs]
        if len(set(names)) < len(names):
            raise UserError(f"runs must have different names, not {names}")
        files = {name: Run(f, constants.w) for name, f in zip(names, constants.runs, strict=True)}
        loaded = {name: measure.load(run.table("spectra", "npz")) for name, run in files.items()}
        _check([provenance.read(run) for run in files.values()])
        runs = {}
        for name, arrays in loaded.items():
            runs[name] = arrays, measure.statistics(arrays)
            _one(files[name], *runs[name])
            report.announce(report.write(files[name].folder, constants.w))
        if len(runs) > 1:
            home = files[names[0]]
            controls, left_out = comparable.controls_of_all(files.values())
            for text in left_out:
                print(f"note: {text}")
            spectra = _spectra_of(controls, runs[names[0]][0])
            storage.save_figure(figures.statistics(runs, "", spectra), home.figure("overlay"))
            drawn = ["overlay"]
            metrics = {name: rows for name, run in files.items() if (rows := run.metrics())}
            if metrics:  # spectra need none
                rows = comparable.control_rows(*files.values())
                floor = next(iter(storage.load_rows(home.table("floor"))), None)
                figure = plots.together(metrics, f"w = {number_text(home.w)}", rows, floor)
                storage.save_figure(figure, home.figure("together"))
                drawn.append("together")
            for kind in drawn:
                print(f"  {storage.shown(home.figure(kind))}")
            named = dict(zip(runs, constants.runs, strict=True))
            report.announce(report.comparison(named, constants.w))


def _check(found):
    """Refusal when Provenances were not measured alike: their numbers could not be compared. How
    the runs were made may differ, and is said."""
    for other in found[1:]:
        if text := comparable.difference(found[0], other, MADE):
            raise Refusal(f"these runs were not measured alike: {text}")
        made = [
            f"{name} ({ours}, {theirs})"
            for name, (ours, theirs) in comparable.differences(found[0], other).items()
        ]
        if made:
            print(f"{_name(found[0].folder)} and {_name(other.folder)}: {', '.join(made)}")


def _one(run, arrays, statistics):
    """One run's figures and table."""
    w = number_text(run.w)
    title = f"{_name(run.folder)}, w = {w}"
    beside, left_out = comparable.controls_beside(run)
    for text in left_out:
        print(f"note: {text}")
    controls = _spectra_of(beside, arrays)
    spectra = [of for of, _ in controls]
    drawn = {
        "eigenvalues": figures.eigenvalue_curves(arrays, title, spectra),
        "densities": figures.densities(arrays, title),
        "sigmaJ": figures.sigma_J(arrays, title, spectra),
        "statistics": figures.statistics({title: (arrays, statistics)}, title, controls),
    }
    for kind, figure in drawn.items():
        storage.save_figure(figure, run.figure(kind))
    generations = arrays["generations"].tolist()
    rows = []
    for i, generation in enumerate(generations):
        for j, t in enumerate(arrays["t"].tolist()):
            row = {"generation": generation_name(generation), "t": t}
            for name, values in statistics.items():
                row |= {name: values[i, j].mean(), f"{name}_sd": values[i, j].std(ddof=1)}
            if 0 in generations:
                eigenvalues = arrays["eigenvalues"]
                distance = log_spectrum_distance(
                    eigenvalues[i, j], eigenvalues[generations.index(0), j]
                )
                row["W1_to_generation_0"] = distance.mean()
            row["denoising_loss"] = arrays["denoising_loss"][i, j]
            rows.append(row)
    storage.save_rows(rows, run.table("compare"))
    names = [run.figure(kind).name for kind in drawn]
    print(f"{title}: {', '.join(names)} and {run.table('compare').name} are in")
    print(f"  {storage.shown(run.folder)}")


def _spectra_of(controls, arrays):
    """Arrays and statistics of the generations of each control Run, without its initial model,
    where they are measured as `arrays` are."""
    found = []
    for control in controls:
        path = control.table("spectra", "npz")
        beside = measure.load(path) if path.exists() else {}
        same = ("t", "sigma", "anchor_index", "n_T")
        if beside and all(np.array_equal(beside[name], arrays[name]) for name in same):
            later = beside["generations"] != INITIAL
            if not later.any():
                continue
            beside["generations"] = beside["generations"][later]
            beside = {
                name: values[later] if name in checkpoint.PER_GENERATION else values
                for name, values in beside.items()
            }
            found.append((beside, measure.statistics(beside)))
    return found


def _name(folder):
    """A run's short name: its scenario and folder, FullSynthetic/t500 or control_seed1."""
    parts = folder.resolve().parts
    return f"{parts[-4]}/{parts[-1]}" if parts[-2] == "data" and len(parts) > 3 else parts[-1]
