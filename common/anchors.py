"""The Jacobian spectra of a run's checkpoints on anchors that never change.

Anchors are real test images, as many of each class, each with its own label and one fixed noise
per (anchor, t): the same for every generation and every run, so that what differs is the model.
"""

import re
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import svds
from tqdm import tqdm

from common import processes, provenance, report, run, spectrum, storage
from common.data import balanced_order, load_real
from common.errors import UserError, one_line
from common.run import Run
from common.seeds import INITIAL, Seeds
from common.settings import number_text

N_VECTORS = 3  # leading singular vectors kept per anchor and time
N_HELD_OUT = 200  # test images of the denoising loss, none of them an anchor
PUBLISHED_N_T = 500  # the n_T that the constant `timesteps` refers to

PER_GENERATION = ("eigenvalues", "trace", "asymmetry", "leading_vectors", "denoising_loss")


class Anchors(NamedTuple):
    """Images to differentiate at: x_0 float (A, 1, 28, 28), labels and indices int64 (A,)."""

    x_0: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    seeds: Seeds

    def noise(self, t):
        """Standard normal (A, 1, 28, 28), a function of (seed, image, t) and of nothing else."""
        return torch.stack(
            [
                torch.randn(
                    self.x_0.shape[1:],
                    generator=self.seeds.torch_generator("noise", 10_000 * i + t),
                )
                for i in self.index.tolist()
            ]
        )


def select(dataset, seed, n_anchors, skip=0):
    """n_anchors test images, as many of each class, after the first `skip` of the same order."""
    test, seeds = load_real(dataset, train=False), Seeds(seed, "anchors")
    order = balanced_order(test.labels, seeds.numpy_generator("order"))
    if skip + n_anchors > len(order):
        raise UserError(
            f"{skip + n_anchors} test images are needed, but {dataset} has {len(order)} in equal "
            "classes"
        )
    index = order[skip : skip + n_anchors]
    images, labels = test.subset(index)
    return Anchors(images.float() / 255, labels, index, seeds)


def scaled(timesteps, n_T):
    """Timesteps of a model with n_T = 500 as those of one with n_T steps, 1 to n_T, float64."""
    t = [min(n_T, max(1, round(step * n_T / PUBLISHED_N_T))) for step in timesteps]
    if len(set(t)) < len(t):
        raise UserError(f"timesteps = {timesteps} fall together at n_T = {n_T}: give fewer")
    return t


def checkpoints(folder, w):
    """{generation: path} of a folder's models, the initial one (INITIAL) first when it is there."""
    run_ = Run(folder, w)
    pattern = re.compile(rf"model_(\d+)_w{re.escape(number_text(w))}\.pth")
    numbers = sorted(
        int(m[1]) for path in folder.glob("model_*") if (m := pattern.fullmatch(path.name))
    )
    if not numbers:
        raise UserError(f"no model_0_w{number_text(w)}.pth in {folder}: run main.py first")
    initial = [INITIAL] if run_.model(INITIAL).exists() else []
    return {generation: run_.model(generation) for generation in [*initial, *numbers]}


@processes.led
def main(constants):
    """What jacobian/spectra.py runs: spectra_w{w}.npz of every checkpoint of run_dir."""
    with one_line():
        paths = checkpoints(constants.run_dir, constants.w)
        if constants.generations:
            missing = set(constants.generations) - set(paths)
            if missing:
                raise UserError(
                    f"no checkpoint of generations {sorted(missing)}: run main.py first"
                )
            paths = {g: paths[g] for g in paths if g == INITIAL or g in constants.generations}
        run_ = Run(constants.run_dir, constants.w)
        path = run_.table("spectra", "npz")
        if record := provenance.recorded(run_):
            constants.dataset = record["constants"]["dataset"]
        with storage.lock(path.with_suffix(".lock")):
            new = measure(paths, path, constants)
        print(f"{_count(len(new), len(paths))} at test images of {constants.dataset}: {path}")
        report.announce(report.write(constants.run_dir, constants.w))


def _count(n_new, n_all):
    if n_new == n_all:
        return f"all {n_all} checkpoints measured"
    if n_new == 0:
        return f"nothing to measure: all {n_all} checkpoints were measured before"
    return f"{n_new} of {n_all} checkpoints measured, the others before"


def measure(paths, path, constants):
    """Adds the spectra of checkpoints {generation: path} to the file `path`, one by one.

    A checkpoint that the file holds already (by content) is not measured again. Returns the
    generations that were. UserError when the file was made with other anchors or timesteps.
    """
    anchors, held_out = _chosen(constants)
    schedule = run.load_ddpm(next(iter(paths.values()))).cpu().sqrtmab
    n_T = len(schedule) - 1
    times = scaled(constants.timesteps, n_T)
    kept = load(path) if storage.intact(path) else {}
    hashes = {generation: storage.sha256(file) for generation, file in paths.items()}
    if kept:
        ours = {"t": times, "anchor_index": anchors.index.tolist(), "dataset": constants.dataset}
        for name, value in ours.items():
            if name in kept and kept[name].tolist() != value:
                raise UserError(f"{path} has other {name}: move it away, or restore the constants")
    rows = {
        int(generation): {name: kept[name][i] for name in (*PER_GENERATION, "checkpoint_sha256")}
        for i, generation in enumerate(kept.get("generations", []))
    }
    new = [g for g in paths if g not in rows or str(rows[g]["checkpoint_sha256"]) != hashes[g]]
    for generation in tqdm(new, desc="spectra", unit="checkpoint", disable=None):
        ddpm = run.load_ddpm(paths[generation])
        if ddpm.n_T != n_T or not torch.allclose(ddpm.sqrtmab.cpu(), schedule, atol=1e-5):
            raise UserError(f"{paths[generation]} has another schedule (n_T, betas) than the first")
        rows[generation] = {
            **processes.together(
                _spectra, ddpm.cpu(), anchors, held_out, times, device=processes.device().type
            ),
            "checkpoint_sha256": hashes[generation],
        }
        order = sorted(rows)
        arrays = {name: np.stack([rows[g][name] for g in order]) for name in rows[generation]}
        sigma, alphabar = (getattr(ddpm, name).cpu()[times] for name in ("sqrtmab", "alphabar_t"))
        arrays |= {
            "generations": np.array(order),
            "checkpoint_names": np.array(
                [Run(path.parent, constants.w).model(g).name for g in order]
            ),
            "t": np.array(times),
            "n_T": np.array(n_T),
            "timesteps": np.array(constants.timesteps),
            "dataset": np.array(constants.dataset),
            "seed": np.array(constants.seed),
            "n_held_out": np.array(N_HELD_OUT),
            "sigma": sigma.double().numpy(),
            "alphabar": alphabar.double().numpy(),
            "anchor_index": anchors.index.numpy(),
            "anchor_labels": anchors.labels.numpy(),
        }
        storage.save_arrays(arrays, path)
    return new


def _chosen(constants):
    """The Anchors, and others of the same test images for the denoising loss."""
    dataset, seed, n_anchors = constants.dataset, constants.seed, constants.n_anchors
    try:
        return select(dataset, seed, n_anchors), select(dataset, seed, N_HELD_OUT, skip=n_anchors)
    except UserError as error:
        raise UserError(
            f"n_anchors = {n_anchors} and {N_HELD_OUT} images for the denoising loss: {error}; "
            "give a smaller n_anchors"
        ) from error


def load(path):
    """The arrays of a spectra_w{w}.npz as a dict. Its axes: G generations (INITIAL = -1 first), T
    times, A anchors, D = 784: eigenvalues of J^T J (G, T, A, D) descending, trace and asymmetry
    of J (G, T, A), leading_vectors (G, T, A, 3, D), denoising_loss (G, T), and their conditions."""
    return storage.load_arrays(path, "jacobian/spectra.py")


def statistics(arrays):
    """{name: (G, T, A)} of `spectrum.spectrum_statistics` for what `load` returns."""
    sigma, alphabar = arrays["sigma"][:, None], arrays["alphabar"][:, None]
    return spectrum.spectrum_statistics(
        arrays["eigenvalues"], arrays["trace"], arrays["asymmetry"], sigma, alphabar
    )


def _spectra(ddpm, anchors, held_out, times, *, device):
    """What one checkpoint adds to the file: {name: array} for the names in PER_GENERATION.

    The processes take the anchors in turns.
    """
    ddpm = ddpm.to(device).frozen()
    chunk = 16 if device == "cpu" else 112  # rows of J at a time
    jobs = [(t, a) for t in times for a in range(len(anchors.index))]
    mine = jobs[processes.rank() :: processes.count()]
    first = processes.rank() == 0

    def measured(t, a):
        x_t, c, t_ = _noised(ddpm, anchors, t, device)
        one = slice(a, a + 1)
        J = spectrum.jacobian(ddpm.eps, x_t[one], t_[one], c[one], chunk)
        return {
            "eigenvalues": spectrum.eigenvalues(J)[0],
            "trace": spectrum.trace(J)[0],
            "asymmetry": spectrum.asymmetry(J)[0],
            "leading_vectors": _leading_vectors(J[0].double().cpu().numpy()),
        }

    bar = tqdm(
        mine,
        desc="one in each process",
        unit="Jacobian",
        disable=None if first else True,
        leave=False,
    )
    results = processes.gathered(lambda: {job: measured(*job) for job in bar})
    of_job = {job: found for result in results for job, found in result.items()}
    found = {
        name: np.stack([[of_job[t, a][name] for a in range(len(anchors.index))] for t in times])
        for name in PER_GENERATION[:-1]
    }
    with torch.inference_mode():
        losses = []
        for t in times:
            x_t, c, t_ = _noised(ddpm, held_out, t, device)
            error = (ddpm.eps(x_t, t_, c) - held_out.noise(t).to(device)).double().square().mean()
            losses.append(error.item())
    return {**found, "denoising_loss": np.stack(losses)}


def _leading_vectors(J):
    """The right singular vectors (N_VECTORS, D) of the largest singular values of J (D, D), each
    with the sign that makes its largest component positive."""
    _, values, vectors = svds(J, k=N_VECTORS, v0=np.ones(len(J)))
    vectors = vectors[np.argsort(values)[::-1]]
    largest = np.abs(vectors).argmax(axis=1)
    return (vectors * np.sign(vectors[np.arange(N_VECTORS), largest])[:, None]).astype(np.float32)


def _noised(ddpm, anchors, t, device):
    """x_t (A, 1, 28, 28), labels (A,) and t (A,) of the noised anchors, on the device."""
    c = anchors.labels.to(device)
    t_ = torch.full_like(c, t)
    return ddpm.noised(anchors.x_0.to(device), anchors.noise(t).to(device), t_), c, t_
