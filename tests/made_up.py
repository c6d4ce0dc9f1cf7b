"""The files of runs that nobody trained: records, metrics and spectra, with changes built in."""

import numpy as np

from common.machine import storage
from common.run.folder import Run

D, A, TIMES = 20, 10, [10, 40]  # eigenvalues, anchors, timesteps of a made-up run

CONSTANTS = {
    "dataset": "digits",
    "N_next": 100,
    "N_eval": 100,
    "N_ref": 0,
    "init_from": "scratch",
    "n_epoch": 4,
    "n_step": 0,
    "batch_size": 32,
    "lrate": 1e-3,
    "loss_weight": "plain",
    "amp": False,
    "n_T": 50,
    "beta1": 1e-4,
    "beta2": 0.2,
    "n_feat": 8,
    "n_classes": 10,
    "sampler": "ddim",
    "sample_steps": 25,
    "eta": 1.0,
    "clip_x0": True,
    "fast": True,
    "deterministic": False,
}


def a_record(folder, seed, w=0, control=False, scenario="FullSynthetic", inputs=None, **changes):
    """run_w{w}.json of a loop with these constants; a change to None leaves the constant out."""
    constants = {**CONSTANTS, "seed": seed, "control": control, **changes}
    made = {
        "scenario": scenario + " control" * control,
        "folder": "FullSynthetic/DDPM-MNIST",
        "generation_number": 10,
        "max_c": 500,
        "save_every": 120,
        "initial_seed": constants.pop("initial_seed", 0),
        "constants": {name: value for name, value in constants.items() if value is not None},
        "inputs": {"prmodel.pth": "a" * 64, "dataset": "b" * 64, **(inputs or {})},
        "versions": {"torch": "2"},
        "device": "cpu",
        "threads": 1,
        "commit": None,
    }
    storage.save_json(made, Run(folder, w).table("run", "json"))


def a_loop(
    folder,
    seed,
    n=10,
    shift_at=None,
    fid_at=None,
    shift=-0.3,
    fid_factor=2,
    rows_from=0,
    control=False,
    times=TIMES,
    **changes,
):
    """A run's files with spectra and metrics that are noise around constants, until the spectrum
    changes at generation shift_at and FID at fid_at. rows_from = 1 moves the metrics by one.
    changes: constants of its record."""
    rng, T = np.random.default_rng(seed), len(times)
    generations = np.arange(-1, n)
    scale = np.ones(n + 1)
    if shift_at is not None:
        scale[generations >= shift_at] = 1 + shift
    base = np.exp(-np.arange(D) / 5 * scale[:, None, None, None])
    eigenvalues = base * np.exp(0.02 * rng.standard_normal((n + 1, T, A, D)))
    hashes = np.array([f"{seed:04d}{g + 1:04d}".ljust(64, "0") for g in generations])
    folder.mkdir()
    noise = 1 + 0.02 * rng.standard_normal((5, n + 1))
    np.savez(
        folder / "spectra_w0.npz",
        eigenvalues=-np.sort(-eigenvalues, axis=-1),
        trace=np.sqrt(eigenvalues).sum(-1),
        asymmetry=0.1 * (1 + 0.02 * rng.standard_normal((n + 1, T, A))),
        denoising_loss=0.05 * (1 + 0.02 * rng.standard_normal((n + 1, T))),
        generations=generations,
        checkpoint_sha256=hashes,
        t=np.array(times),
        n_T=np.array(50),
        timesteps=np.array(times) * 10,
        seed=np.array(0),
        dataset=np.array("digits"),
        images_sha256=np.array("c" * 64),
        n_held_out=np.array(200),
        sigma=np.linspace(0.3, 0.8, T),
        alphabar=np.linspace(0.9, 0.3, T),
        anchor_index=np.arange(A),
        anchor_labels=np.arange(A) % 10,
    )
    fid = 20 * noise[0]
    if fid_at is not None:
        fid[generations >= fid_at] *= fid_factor
    rows = [
        {
            "generation": int(g),
            "model": hashes[(i + rows_from) % len(hashes)][:16],
            "N_eval": 100,
            "fid": fid[i],
            "precision": 0.8 * noise[1][i],
            "recall": 0.7 * noise[2][i],
            "density": 0.6 * noise[3][i],
            "coverage": 0.5 * noise[4][i],
        }
        for i, g in enumerate(generations)
    ]
    Run(folder, 0).save_metrics(rows)
    a_record(folder, seed, control=control, **changes)
    return folder
