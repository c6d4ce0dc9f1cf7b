"""Generation 0 against the last: the figures and the table of jacobian/compare.py."""

import numpy as np

from common import anchors, processes, report, spectrum_plots, storage
from common.errors import UserError, one_line
from common.run import Run
from common.seeds import INITIAL
from common.settings import number_text
from common.spectrum import log_spectrum_distance


@processes.led
def main(constants):
    """What jacobian/compare.py runs."""
    with one_line():
        runs = {}
        for folder in constants.runs:
            run = Run(folder, constants.w)
            arrays = anchors.load(run.table("spectra", "npz"))
            runs[_name(folder)] = arrays, anchors.statistics(arrays)
            _one(run, arrays, runs[_name(folder)][1])
            report.announce(report.write(folder, constants.w))
        if len(runs) < len(constants.runs):
            raise UserError(
                f"runs must have different names, not {[_name(f) for f in constants.runs]}"
            )
        if len(runs) > 1:
            first = next(iter(runs.values()))[0]
            for name, (arrays, _) in runs.items():
                for key in ("anchor_index", "t", "n_T"):
                    if not np.array_equal(arrays[key], first[key]):
                        raise UserError(f"{name} was measured at other {key} than the first run")
            home = Run(constants.runs[0], constants.w)
            storage.save_figure(spectrum_plots.statistics(runs, ""), home.figure("overlay"))
            print(f"  {home.figure('overlay')}")
            named = dict(zip(runs, constants.runs, strict=True))
            report.announce(report.comparison(named, constants.w))


def _one(run, arrays, statistics):
    """One run's figures and table."""
    w = number_text(run.w)
    title = f"{_name(run.folder)}, w = {w}"
    figures = {
        "eigenvalues": spectrum_plots.eigenvalue_curves(arrays, title),
        "densities": spectrum_plots.densities(arrays, title),
        "sigmaJ": spectrum_plots.sigma_J(arrays, title),
        "vectors": spectrum_plots.vectors(arrays, f"{title}: leading singular vectors"),
        "statistics": spectrum_plots.statistics({title: (arrays, statistics)}, title),
    }
    for kind, figure in figures.items():
        storage.save_figure(figure, run.figure(kind))
    generations = arrays["generations"].tolist()
    rows = []
    for i, generation in enumerate(generations):
        for j, t in enumerate(arrays["t"].tolist()):
            row = {"generation": "initial" if generation == INITIAL else generation, "t": t}
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
    names = [run.figure(kind).name for kind in figures]
    print(f"{title}: {', '.join(names)} and {run.table('compare').name} are in\n  {run.folder}")


def _name(folder):
    """A run's short name: its scenario and folder, FullSynthetic/t500 or control_seed1."""
    parts = folder.resolve().parts
    return f"{parts[-4]}/{parts[-1]}" if parts[-2] == "data" and len(parts) > 3 else parts[-1]
