"""What is watched over the generations of a loop, each number aligned to the model it was
measured on: statistics of the Jacobian spectrum, the denoising loss, FID and PRDC."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import anchors
from common.errors import UserError
from common.run import Run
from common.settings import WATCHED

METRICS = ("fid", "precision", "recall", "density", "coverage")
LOGARITHMIC = ("fid", "denoising_loss")  # skewed: watched on a logarithmic scale


class Streams(NamedTuple):
    """The streams of one loop: values (G, S) of streams `names` at `generations` (G,), and their
    values per anchor {name: (G, A)} where there are anchors."""

    folder: Path
    generations: np.ndarray
    names: list
    values: np.ndarray
    per_anchor: dict
    t: list

    def of(self, name):
        """The values (G,) of one stream."""
        return self.values[:, self.names.index(name)]


def load(folder, w):
    """The Streams of a run with metrics_w{w}.csv and spectra_w{w}.npz, generation 0 to the last.

    A row of metrics joins a row of spectra by the content of the checkpoint they were measured on;
    UserError when a generation's two rows are of different models, or one is missing.
    """
    run = Run(folder, w)
    path = run.table("spectra", "npz")
    arrays = anchors.load(path)
    rows = {row["generation"]: row for row in run.metrics()}
    if not rows:
        raise UserError(f"{run.table('metrics').name} is missing in {folder}: run main.py first")
    generations = [int(g) for g in arrays["generations"] if g >= 0]
    if generations != list(range(len(generations))) or set(generations) != {
        g for g in rows if g >= 0
    }:
        raise UserError(
            f"{path} has the generations {generations}, but the metrics "
            f"{sorted(g for g in rows if g >= 0)}: run jacobian/spectra.py with generations = []"
        )
    of_generation = {int(g): i for i, g in enumerate(arrays["generations"])}
    for g in generations:
        if not str(arrays["checkpoint_sha256"][of_generation[g]]).startswith(rows[g]["model"]):
            raise UserError(
                f"generation {g} in {folder}: metrics and spectra were measured on different "
                "models; run jacobian/spectra.py again, and main.py if that does not help"
            )
    index = [of_generation[g] for g in generations]
    values, per_anchor = {}, {}
    statistics = anchors.statistics(arrays)
    times = arrays["t"].tolist()
    for name in WATCHED:
        for i, t in enumerate(times):
            per_anchor[f"{name} t={t}"] = statistics[name][index, i]
            values[f"{name} t={t}"] = statistics[name][index, i].mean(axis=1)
    for i, t in enumerate(times):
        values[f"denoising_loss t={t}"] = arrays["denoising_loss"][index, i]
    for name in METRICS:
        values[name] = np.array([rows[g][name] for g in generations])
    for name, series in values.items():
        if name.split()[0] in LOGARITHMIC:
            values[name] = np.log(series)
    return Streams(
        folder,
        np.array(generations),
        list(values),
        np.stack(list(values.values()), 1),
        per_anchor,
        times,
    )
