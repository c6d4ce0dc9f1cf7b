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

from common import report, run, spectrum, storage
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
        raise UserError(f"n_anchors = {n_anchors}, but there are {len(order) - skip} test images")
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
        path = Run(constants.run_dir, constants.w).table("spectra", "npz")
        with storage.lock(path.with_suffix(".lock")):
            new = measure(paths, path, constants)
        print(f"{len(new)} of {len(paths)} checkpoints measured, the others were there: {path}")
        report.announce(report.write(constants.run_dir, constants.w))


def measure(paths, path, constants):
    """Adds the spectra of checkpoints {generation: path} to the file `path`, one by one.

    A checkpoint that the file holds already (by content) is not measured again. Returns the
    generations that were. UserError when the file was made with other anchors or timesteps.
    """
    anchors = select(constants.dataset, constants.seed, constants.n_anchors)
    held_out = select(constants.dataset, constants.seed, N_HELD_OUT, skip=constants.n_anchors)
    schedule = run.load_ddpm(next(iter(paths.values()))).cpu().sqrtmab
    n_T = len(schedule) - 1
    times = scaled(constants.timesteps, n_T)
    kept = load(path) if storage.intact(path) else {}
    hashes = {generation: storage.sha256(file) for generation, file in paths.items()}
    if kept:
        for name, ours in (("t", times), ("anchor_index", anchors.index.tolist())):
            if kept[name].tolist() != ours:
                raise UserError(f"{path} has other {name}: move it away, or restore the constants")
    rows = {
        int(generation): {name: kept[name][i] for name in (*PER_GENERATION, "checkpoint_sha256")}
        for i, generation in enumerate(kept.get("generations", []))
    }
    new = [g for g in paths if g not in rows or str(rows[g]["checkpoint_sha256"]) != hashes[g]]
    bar = tqdm(
        total=len(new) * len(times) * len(anchors.index),
        desc="spectra",
        unit="Jacobian",
        disable=None,
    )
    for generation in new:
        ddpm = run.load_ddpm(paths[generation])
        if ddpm.n_T != n_T or not torch.allclose(ddpm.sqrtmab.cpu(), schedule, atol=1e-5):
            raise UserError(f"{paths[generation]} has another schedule (n_T, betas) than the first")
        rows[generation] = {
            **_spectra(ddpm.frozen(), anchors, held_out, times, bar),
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
            "seed": np.array(constants.seed),
            "sigma": sigma.double().numpy(),
            "alphabar": alphabar.double().numpy(),
            "anchor_index": anchors.index.numpy(),
            "anchor_labels": anchors.labels.numpy(),
        }
        storage.save_arrays(arrays, path)
    bar.close()
    return new


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


def _spectra(ddpm, anchors, held_out, times, bar):
    """What one checkpoint adds to the file: {name: array} for the names in PER_GENERATION."""
    device = ddpm.alpha_t.device
    chunk = 16 if device.type == "cpu" else 112  # rows of J at a time
    found = {name: [] for name in PER_GENERATION}
    for t in times:
        x_t, c, t_ = _noised(ddpm, anchors, t, device)
        of_anchors = {name: [] for name in PER_GENERATION[:-1]}
        for a in range(len(c)):
            one = slice(a, a + 1)
            J = spectrum.jacobian(ddpm.eps, x_t[one], t_[one], c[one], chunk)
            of_anchors["eigenvalues"].append(spectrum.eigenvalues(J)[0])
            of_anchors["trace"].append(spectrum.trace(J)[0])
            of_anchors["asymmetry"].append(spectrum.asymmetry(J)[0])
            of_anchors["leading_vectors"].append(_leading_vectors(J[0].double().cpu().numpy()))
            bar.update()
        for name, values in of_anchors.items():
            found[name].append(np.stack(values))
        with torch.inference_mode():
            eps = held_out.noise(t).to(device)
            x_t, c, t_ = _noised(ddpm, held_out, t, device)
            error = (ddpm.eps(x_t, t_, c) - eps).double().square().mean()
        found["denoising_loss"].append(error.item())
    return {name: np.stack(values) for name, values in found.items()}


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
