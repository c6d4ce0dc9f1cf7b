"""The Jacobian spectra of a run's checkpoints on anchors that never change.

Anchors are real test images, as many of each class, each with its own label and one fixed noise
per (anchor, t): the same for every generation and every run, so that what differs is the model.
Or they are samples of the run's initial model: then nothing here needs real images, not even the
principal directions of the classes. What costs K backward passes and no whole J is measured on
more images of the same source.
"""

import re

import numpy as np
import torch
from tqdm import tqdm

from common.data import fingerprint, load_real
from common.machine import device, processes, records, storage
from common.machine.errors import UserError, one_line
from common.page import report
from common.rules import DATASETS, kind_of_data
from common.run import provenance
from common.run.folder import SPECTRA, Run, load_ddpm, load_images
from common.seeds import INITIAL
from common.settings import number_text
from common.spectrum import jacobian, posterior
from common.spectrum.anchors import select
from common.spectrum.checkpoint import PER_GENERATION, measure_checkpoint

N_HELD_OUT = 200  # test images of the denoising loss, none of them an anchor
PUBLISHED_N_T = 500  # the n_T that the constant `timesteps` refers to


def scaled(timesteps, n_T):
    """Timesteps of a model with n_T = 500 as those of one with n_T steps, 1 to n_T."""
    if max(timesteps) > PUBLISHED_N_T:
        raise UserError(
            f"timesteps = {timesteps} are of n_T = {PUBLISHED_N_T}, whatever the model's: give "
            "none above that"
        )
    t = [min(n_T, max(1, round(step * n_T / PUBLISHED_N_T))) for step in timesteps]
    if len(set(t)) < len(t):
        raise UserError(f"timesteps = {timesteps} fall together at n_T = {n_T}: give fewer")
    return t


def checkpoints(folder, w):
    """{generation: path} of a folder's models, the initial one (INITIAL) first when it is there."""
    run = Run(folder, w)
    pattern = re.compile(rf"model_(\d+)_w{re.escape(number_text(w))}\.pth")
    numbers = sorted(
        int(m[1]) for path in folder.glob("model_*") if (m := pattern.fullmatch(path.name))
    )
    if not numbers:
        raise UserError(f"no model_0_w{number_text(w)}.pth in {folder}: run main.py first")
    initial = [INITIAL] if run.model(INITIAL).exists() else []
    return {generation: run.model(generation) for generation in [*initial, *numbers]}


@processes.led
def main(constants):
    """What jacobian/spectra.py runs: spectra_w{w}.npz of every checkpoint of run_dir."""
    with one_line():
        device.set_up(deterministic=True)
        paths = checkpoints(constants.run_dir, constants.w)
        if constants.generations:
            missing = set(constants.generations) - set(paths)
            if missing:
                raise UserError(
                    f"no checkpoint of generations {sorted(missing)}: run main.py first"
                )
            paths = {g: paths[g] for g in paths if g == INITIAL or g in constants.generations}
        run = Run(constants.run_dir, constants.w)
        path = run.table(SPECTRA[constants.anchors_from], "npz")
        if record := provenance.recorded(run):
            _use_data_of(record, constants)
        with storage.lock(path.with_suffix(".lock")):
            new = measure(paths, path, constants)
        where = f"test images of {constants.dataset}"
        if constants.anchors_from == "samples":
            where = "samples of the initial model"
        print(f"{_count(len(new), len(paths))} at {where}: {storage.shown(path)}")
        report.announce(report.write(constants.run_dir, constants.w))


def _use_data_of(record, constants):
    """Makes the dataset that of the run's record, but a file of one's own the one that is given:
    it may lie elsewhere now. Its training images must be those of the run."""
    recorded, given = record["constants"]["dataset"], constants.dataset
    if recorded in DATASETS or given in DATASETS:
        constants.dataset = recorded
    if constants.anchors_from == "samples":  # which needs no real image
        return
    if fingerprint(load_real(constants.dataset)) != record["inputs"]["dataset"]:
        raise UserError(
            f"the images of {constants.dataset} are not those that the run was made with: bring "
            "them back, or name their file with --dataset"
        )


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
    anchors, held_out, directions = _chosen(constants)
    images = records.digest(*(of.x_0.numpy().tobytes() for of in (anchors, held_out)))
    schedule = load_ddpm(next(iter(paths.values()))).cpu().sqrtmab
    n_T = len(schedule) - 1
    times = scaled(constants.timesteps, n_T)
    kept = _kept(path)
    hashes = {generation: storage.sha256(file) for generation, file in paths.items()}
    if kept:
        ours = {"t": times, "anchor_index": anchors.index.tolist(), "images_sha256": images}
        alike = kind_of_data if "images_sha256" in kept else str  # the images tell, or the path
        ours["dataset"] = alike(constants.dataset)
        theirs = {name: kept[name].tolist() for name in ours if name in kept}
        theirs["dataset"] = alike(theirs.get("dataset", constants.dataset))
        for name, value in theirs.items():
            if ours[name] != value:
                raise UserError(f"{path} has other {name}: move it away, or restore what it had")
    rows = {
        int(generation): {name: kept[name][i] for name in (*PER_GENERATION, "checkpoint_sha256")}
        for i, generation in enumerate(kept.get("generations", []))
    }
    new = [g for g in paths if g not in rows or str(rows[g]["checkpoint_sha256"]) != hashes[g]]
    for generation in tqdm(new, desc="spectra", unit="checkpoint", disable=None):
        ddpm = load_ddpm(paths[generation])
        if ddpm.n_T != n_T or not torch.allclose(ddpm.sqrtmab.cpu(), schedule, atol=1e-5):
            raise UserError(f"{paths[generation]} has another schedule (n_T, betas) than the first")
        rows[generation] = {
            **measure_checkpoint(ddpm.cpu(), anchors, held_out, directions, times),
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
            "anchors_from": np.array(constants.anchors_from),
            "seed": np.array(constants.seed),
            "n_held_out": np.array(N_HELD_OUT),
            "sigma": sigma.double().numpy(),
            "alphabar": alphabar.double().numpy(),
            "anchor_index": anchors.index.numpy(),
            "anchor_labels": anchors.labels.numpy(),
        }
        if not kept or "images_sha256" in kept:  # of older rows nobody knows
            arrays["images_sha256"] = np.array(images)
        storage.save_arrays(arrays, path)
    return new


def _kept(path):
    """The arrays that are there. What an earlier version measured, which was less, is set aside."""
    kept = load(path) if storage.verify(path) else {}
    if kept and not set(PER_GENERATION) <= kept.keys():
        aside = path.with_name(f"{path.stem}_earlier.npz")
        storage.copy(path, aside)
        print(
            f"note: {path.name} is of an earlier version, which measured less: kept as "
            f"{aside.name}, all checkpoints are measured again"
        )
        return {}
    return kept


def _chosen(constants):
    """The Anchors; others of the same source; and the principal directions (10, K, D) of each class
    in what the models are to know: the real training images, or samples of the initial model."""
    seed, n_anchors = constants.seed, constants.n_anchors
    if constants.anchors_from == "samples":
        paths = Run(constants.run_dir, constants.w).evaluation(INITIAL)
        source = known = load_images(paths, "main.py")
    else:
        source, known = load_real(constants.dataset, train=False), load_real(constants.dataset)
    try:
        chosen = select(source, seed, n_anchors), select(source, seed, N_HELD_OUT, skip=n_anchors)
    except UserError as error:
        raise UserError(
            f"n_anchors = {n_anchors} and {N_HELD_OUT} images for the denoising loss: {error}; "
            "give a smaller n_anchors, or more images"
        ) from error
    k = max(posterior.N_DIRECTIONS)
    try:
        of_class = [
            posterior.principal_directions(known.images[known.labels == c], k) for c in range(10)
        ]
    except ValueError as error:
        raise UserError(
            f"the principal directions of the classes need more images of each: {error}"
        ) from error
    return *chosen, torch.stack(of_class)


def load(path):
    """The arrays of a spectra_w{w}.npz as a dict. Its axes: G generations (INITIAL = -1 first), T
    times, A anchors, H other images, D = 784: eigenvalues of J^T J (G, T, A, D) descending;
    trace and asymmetry of J and `posterior.STATISTICS` (G, T, A); `posterior.TANGENT`
    (G, T, H); denoising_loss (G, T); and their conditions."""
    return storage.load_arrays(path, "jacobian/spectra.py")


def statistics(arrays):
    """{name: (G, T, A)} of `jacobian.spectrum_statistics` for what `load` returns; of `posterior`,
    too, where the file has them, the logarithms of the tangent variances (G, T, H)."""
    sigma, alphabar = arrays["sigma"][:, None], arrays["alphabar"][:, None]
    found = jacobian.spectrum_statistics(
        arrays["eigenvalues"], arrays["trace"], arrays["asymmetry"], sigma, alphabar
    )
    if "free_directions" in arrays:  # not in files of earlier versions
        found |= {name: arrays[name] for name in posterior.STATISTICS}
        for k in posterior.N_DIRECTIONS:
            name = f"tangent_variance_{k}"
            found[name] = posterior.log_tangent_variance(arrays[name])
    return found


def overconfidence(arrays):
    """{"overconfidence_10", "_20": (G, T)} over the held-out images; {} for an earlier file."""
    if "free_directions" not in arrays:
        return {}
    return {
        f"overconfidence_{k}": posterior.overconfidence(
            arrays[f"tangent_residual_{k}"], arrays[f"tangent_variance_{k}"]
        )
        for k in posterior.N_DIRECTIONS
    }
