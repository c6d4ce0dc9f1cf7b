"""What is watched over the generations of a loop, each number aligned to the model it was
measured on: statistics of the Jacobian spectrum, the denoising loss, FID and PRDC."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.machine import storage
from common.machine.errors import Refusal, UserError
from common.run import provenance
from common.run.folder import SPECTRA, Run
from common.run.provenance import Provenance
from common.seeds import INITIAL
from common.spectrum import WATCHED, measure


class Kind(NamedTuple):
    """A kind of stream: its name in tables, figures and JSON, the direction in which it alarms
    (1 upwards, -1 downwards, 0 both: exploratory), and whether its logarithm is watched, which
    takes the skew out of what cannot be negative."""

    name: str
    direction: int
    logarithmic: bool = False


# Of samples: a column of metrics_w{w}.csv each. An improvement is no alarm.
METRICS = {
    "fid": Kind("log FID", 1, logarithmic=True),
    "precision": Kind("precision", -1),
    "recall": Kind("recall", -1),
    "density": Kind("density", -1),
    "coverage": Kind("coverage", -1),
    "entropy": Kind("entropy of samples", -1),
    "distance_to_training": Kind("distance to training set", -1),
}
# Of the model itself; that posterior variance falls is what a loss of diversity means.
KINDS = {
    "posterior_variance": Kind("posterior variance", -1),
    "effective_rank": Kind("effective rank", 0),
    "stable_rank": Kind("stable rank", 0),
    "sigma_norm": Kind("spectral norm", 0),
    "log_energy": Kind("log energy", 0),
    "asymmetry": Kind("asymmetry", 0),
    "log_posterior_20": Kind("log posterior variance, 20 largest", -1),
    "free_directions": Kind("free directions", -1),
    "log_singular_20": Kind("log singular values, 20 smallest", 1),
    "log_singular_60": Kind("log singular values, 60 smallest", 1),
    "tangent_variance_10": Kind("log tangent variance, 10 directions", -1),
    "tangent_variance_20": Kind("log tangent variance, 20 directions", -1),
    "overconfidence_10": Kind("over-confidence, 10 directions", 1),
    "overconfidence_20": Kind("over-confidence, 20 directions", 1),
    "denoising_loss": Kind("log denoising loss", 1, logarithmic=True),
    **METRICS,
}
FID = METRICS["fid"].name
TANGENT = KINDS["tangent_variance_10"].name.split(",")[0]  # begins streams of held-out images
SAMPLED = " at samples"  # ends the name of a stream whose anchors are samples


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

    def only(self, names):
        """These Streams with those in names alone, in that order. Refusal when one is not there."""
        if lacking := [name for name in names if name not in self.names]:
            raise Refusal(
                f"stream {lacking[0]!r} is not there in {self.folder}: measure all loops with the "
                "same version of main.py and the same constants of jacobian/spectra.py"
            )
        index = [self.names.index(name) for name in names]
        return self._replace(names=list(names), values=self.values[:, index])


def name_of(kind, t=None):
    """The name of a stream of this kind (a key of KINDS): "log FID", "posterior variance t=50"."""
    return KINDS[kind].name if t is None else f"{KINDS[kind].name} t={t}"


def direction(name):
    """The direction of the stream of this name: 1, -1 or 0."""
    directions = {kind.name: kind.direction for kind in KINDS.values()}
    return directions[kind_and_place(name)[0]]


def kind_and_place(name):
    """("posterior variance", "50 at samples") of the stream "posterior variance t=50 at samples",
    ("log FID", "") of one without time."""
    kind, _, place = name.partition(" t=")
    return kind, place


def load(folder, w, first=0):
    """The Streams of a run with metrics_w{w}.csv and spectra_w{w}.npz, generation `first` (0, or
    INITIAL) to the last, with those of spectra_of_samples_w{w}.npz where it is there; or of the
    file that a study keeps of a loop (`folder` then), without those per anchor.

    A row of metrics joins a row of spectra by the content of the checkpoint they were measured on;
    UserError when a generation's two rows are of different models, or one is missing.
    """
    if folder.suffix == ".npz":
        return _of_unit(folder, first)
    run = Run(folder, w)
    rows = {row["generation"]: row for row in run.metrics() if row["generation"] >= first}
    if not rows:
        raise UserError(f"{run.table('metrics').name} is missing in {folder}: run main.py first")
    values, per_anchor, found = {}, {}, []
    for source, ending in (("test", ""), ("samples", SAMPLED)):
        path = run.table(SPECTRA[source], "npz")
        if source == "test" or path.exists():
            arrays = measure.load(path)
            index = _matching(run, arrays, rows, path)
            found.append(arrays)
            own = {name + ending: each for name, each in _of_anchors(arrays, index).items()}
            per_anchor |= own
            values |= {name: numbers.mean(axis=1) for name, numbers in own.items()}
            values |= {name + ending: each for name, each in _of_all(arrays, index).items()}
    values |= of_metrics(run, rows)
    return Streams(
        folder,
        provenance.read(run),
        np.array(list(rows)),
        list(values),
        np.stack(list(values.values()), 1),
        per_anchor,
        sorted({t for arrays in found for t in arrays["t"].tolist()}),
        int(found[0]["n_T"]),
    )


def of_metrics(run, rows, suffix=""):
    """{stream: (G,)} of the metrics in rows {generation: row}, of guided samples with the suffix
    "_guided"; one that a run of an earlier version has nowhere is left out. The initial model's may
    be missing: its training set is not a loop's. UserError where another is."""
    found, generations = {}, [g for g in rows if g != INITIAL]
    for kind, (name, _, logarithmic) in METRICS.items():
        lacking = [g for g in generations if kind + suffix not in rows[g]]
        if lacking == generations:
            continue
        series = np.array([row.get(kind + suffix, np.nan) for row in rows.values()])
        if lacking:
            raise UserError(
                f"{run.table('metrics')}: {kind + suffix} of generations {lacking} is missing; run "
                "main.py again, which measures what is missing"
            )
        found[name] = np.log(series) if logarithmic else series
    return found


def _of_unit(path, first):
    """The Streams in the file that a study keeps of a loop: `study.files`."""
    arrays = storage.load_arrays(path, "jacobian/study.py")
    made = json.loads(str(arrays["record"]))["provenance"]
    from_first = arrays["generations"] >= first
    return Streams(
        path,
        provenance.from_json(path, made),
        arrays["generations"][from_first],
        arrays["streams"].tolist(),
        arrays["values"][from_first],
        {},
        arrays["t"].tolist(),
        made["anchors"]["n_T"],
    )


def _matching(run, arrays, rows, path):
    """The index among the spectra of each generation in rows {generation: row of metrics}."""
    measured = arrays["generations"].tolist()
    generations = sorted(rows)
    _check_generations(run, path, rows, [g for g in measured if g >= generations[0]])
    index = [measured.index(g) for g in generations]
    for g, i in zip(generations, index, strict=True):
        if not str(arrays["checkpoint_sha256"][i]).startswith(rows[g]["model"]):
            raise UserError(
                f"generation {g} in {path.parent}: metrics and spectra were measured on different "
                "models; run jacobian/spectra.py again, and main.py if that does not help"
            )
    return index


def _check_generations(run, spectra, rows, measured):
    """UserError when a generation has metrics without spectra, or spectra without metrics, as
    after a shorter loop, which leaves the models and spectra of later generations there."""
    every = range(min(rows), max([*rows, *measured]) + 1)
    having_metrics = [g for g in sorted(rows) if g != INITIAL]
    if no_metrics := [g for g in every if g not in rows]:
        raise UserError(
            f"{run.table('metrics')} lacks the generations {no_metrics}: run main.py with "
            f"generation_number = {every[-1] + 1}, then jacobian/spectra.py; or move "
            f"{spectra.name} away and run jacobian/spectra.py with generations = {having_metrics}"
        )
    if no_spectra := [g for g in every if g not in measured]:
        of_samples = spectra.name.startswith(SPECTRA["samples"])
        raise UserError(
            f"{spectra} lacks the generations {no_spectra}: run jacobian/spectra.py with "
            f"generations = []{' and anchors_from = samples' if of_samples else ''}"
        )


def _of_anchors(arrays, index):
    """{stream: (G, A)} of what each anchor says for itself."""
    statistics = measure.statistics(arrays)
    return {
        name_of(kind, t): statistics[kind][index, i]
        for kind in WATCHED
        if kind in statistics
        for i, t in enumerate(arrays["t"].tolist())
    }


def _of_all(arrays, index):
    """{stream: (G,)} of what all images say together."""
    together = {
        **measure.overconfidence(arrays),
        "denoising_loss": np.log(arrays["denoising_loss"]),
    }
    return {
        name_of(kind, t): values[index, i]
        for kind, values in together.items()
        for i, t in enumerate(arrays["t"].tolist())
    }
