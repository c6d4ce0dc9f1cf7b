"""What is watched over the generations of a loop, each number aligned to the model it was
measured on: statistics of the Jacobian spectrum, the denoising loss, FID and PRDC."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import anchors, provenance
from common.errors import UserError
from common.provenance import Provenance
from common.run import Run
from common.seeds import INITIAL
from common.settings import WATCHED


class Kind(NamedTuple):
    """A kind of stream: its name in tables, figures and JSON, the direction in which it alarms
    (1 upwards, -1 downwards, 0 both: exploratory), and whether its logarithm is watched, which
    takes the skew out of what cannot be negative."""

    name: str
    direction: int
    logarithmic: bool = False


# An improvement is no alarm. That posterior variance falls is what a loss of diversity means.
KINDS = {
    "posterior_variance": Kind("posterior variance", -1),
    "effective_rank": Kind("effective rank", 0),
    "stable_rank": Kind("stable rank", 0),
    "sigma_norm": Kind("spectral norm", 0),
    "log_energy": Kind("log energy", 0),
    "asymmetry": Kind("asymmetry", 0),
    "denoising_loss": Kind("log denoising loss", 1, logarithmic=True),
    "fid": Kind("log FID", 1, logarithmic=True),
    "precision": Kind("precision", -1),
    "recall": Kind("recall", -1),
    "density": Kind("density", -1),
    "coverage": Kind("coverage", -1),
}
METRICS = ("fid", "precision", "recall", "density", "coverage")
FID = KINDS["fid"].name


class Streams(NamedTuple):
    """The streams of one loop: values (G, S) of streams `names` at `generations` (G,), and their
    values per anchor {name: (G, A)} where there are anchors."""

    folder: Path
    provenance: Provenance
    generations: np.ndarray
    names: list
    values: np.ndarray
    per_anchor: dict
    t: list
    n_T: int

    def of(self, name):
        """The values (G,) of one stream."""
        return self.values[:, self.names.index(name)]


def name_of(kind, t=None):
    """The name of a stream of this kind (a key of KINDS): "log FID", "posterior variance t=50"."""
    return KINDS[kind].name if t is None else f"{KINDS[kind].name} t={t}"


def direction(name):
    """The direction of the stream of this name: 1, -1 or 0."""
    directions = {kind.name: kind.direction for kind in KINDS.values()}
    return directions[name.split(" t=")[0]]


def load(folder, w):
    """The Streams of a run with metrics_w{w}.csv and spectra_w{w}.npz, generation 0 to the last.

    A row of metrics joins a row of spectra by the content of the checkpoint they were measured on;
    UserError when a generation's two rows are of different models, or one is missing.
    """
    run = Run(folder, w)
    arrays = anchors.load(run.table("spectra", "npz"))
    rows = {row["generation"]: row for row in run.metrics() if row["generation"] != INITIAL}
    if not rows:
        raise UserError(f"{run.table('metrics').name} is missing in {folder}: run main.py first")
    measured = arrays["generations"].tolist()
    _check_generations(run, rows, measured)
    generations = sorted(rows)
    index = [measured.index(g) for g in generations]
    for g, i in zip(generations, index, strict=True):
        if not str(arrays["checkpoint_sha256"][i]).startswith(rows[g]["model"]):
            raise UserError(
                f"generation {g} in {folder}: metrics and spectra were measured on different "
                "models; run jacobian/spectra.py again, and main.py if that does not help"
            )
    values, per_anchor = {}, {}
    statistics, times = anchors.statistics(arrays), arrays["t"].tolist()
    for kind in WATCHED:
        for i, t in enumerate(times):
            per_anchor[name_of(kind, t)] = statistics[kind][index, i]
            values[name_of(kind, t)] = statistics[kind][index, i].mean(axis=1)
    for i, t in enumerate(times):
        values[name_of("denoising_loss", t)] = np.log(arrays["denoising_loss"][index, i])
    for kind in METRICS:
        series = np.array([rows[g][kind] for g in generations])
        values[name_of(kind)] = np.log(series) if KINDS[kind].logarithmic else series
    return Streams(
        folder,
        provenance.read(run),
        np.array(generations),
        list(values),
        np.stack(list(values.values()), 1),
        per_anchor,
        times,
        int(arrays["n_T"]),
    )


def _check_generations(run, rows, measured):
    """UserError when a generation has metrics without spectra, or spectra without metrics, as
    after a shorter loop, which leaves the models and spectra of later generations there."""
    spectra, every = run.table("spectra", "npz"), range(max([*rows, *measured]) + 1)
    if no_metrics := [g for g in every if g not in rows]:
        raise UserError(
            f"{run.table('metrics')} lacks the generations {no_metrics}: run main.py with "
            f"generation_number = {len(every)}, then jacobian/spectra.py; or move {spectra.name} "
            f"away and run jacobian/spectra.py with generations = {sorted(rows)}"
        )
    if no_spectra := [g for g in every if g not in measured]:
        raise UserError(
            f"{spectra} lacks the generations {no_spectra}: run jacobian/spectra.py with "
            "generations = []"
        )
