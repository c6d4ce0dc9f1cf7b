"""The unit files of a study that nobody ran: noise around constants, and changes built in."""

import json

import numpy as np

from common.machine import storage

STREAMS = {  # direction
    "log FID": 1,
    "recall": -1,
    "log denoising loss t=50": 1,
    "log posterior variance of 20 t=50": -1,
    "effective rank t=50": 0,
    "entropy": -1,
    "spectral norm t=100": 0,
    "precision": -1,
}
PRIMARY = "log posterior variance of 20 t=50"
# Control sds by which a stream moves per generation in a loop with synthetic data only.
GROWTH = np.array([1.5, -5, 8, -6, 3, -3, 0, 0.5])
DOSES = {"dose10": 0.1, "dose25": 0.25, "dose50": 0.5, "full": 1.0}


def record(arm, seed, role="test", **changes):
    """A unit's record; changes: other values."""
    made = {
        "schema": 1,
        "study": "made up",
        "arm": arm,
        "dose": DOSES.get(arm, 0.0),
        "control": arm == "control",
        "role": role,
        "seed": seed,
        "protocol_sha256": "a" * 64,
        "commit": "0123456",
        "versions": {"torch": "2"},
        "provenance": {
            "scenario": "FullSynthetic",
            "N_fixed": 0,
            "control": arm == "control",
            "init_from": "scratch",
            "recipe": {"lrate": 4e-3},
            "seed": seed,
            "models": [f"{arm} {seed}"],
        },
    }
    return {**made, **changes}


def a_unit(
    folder, arm, seed, values, streams=None, role="test", initial=np.nan, guided=None, **changes
):
    """The unit file of a loop with these values (G, S) from generation 0, after `initial` (S,), and
    those {stream: (G + 1,)} of guided samples; its path."""
    streams, (G, S) = streams or STREAMS, values.shape
    path = folder / f"{arm}_seed{seed}.npz"
    arrays = {
        "streams": np.array(list(streams)),
        "directions": np.array(list(streams.values())),
        "generations": np.arange(-1, G),
        "values": np.concatenate([np.broadcast_to(initial, (1, S)), values]),
        "t": np.array([50, 100]),
        "mean_log_eigenvalues": np.zeros((G + 1, 2, 9)) + values.mean(),
        "record": np.array(json.dumps(record(arm, seed, role, **changes))),
    }
    if guided:
        arrays["guided_streams"] = np.array(list(guided))
        arrays["guided_values"] = np.stack(list(guided.values()), 1)
    storage.save_arrays(arrays, path)
    return path


def a_study(folder, n=20, n_dose=10, n_controls=20, G=5, seed=0):
    """A folder of controls, of full loops, and of loops at three doses, whose changes grow with
    dose and generation; a loop deviates by 0.3 sd of a training as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, S = np.random.default_rng(seed), len(STREAMS)
    sizes = {"control": n_controls, **dict.fromkeys(DOSES, n_dose), "full": n}
    for arm, size in sizes.items():
        dose = DOSES.get(arm, 0)
        growth = GROWTH * dose * (np.arange(G)[:, None] * dose + 1)
        for loop in range(size):
            noise = rng.standard_normal((G, S)) + 0.3 * rng.standard_normal(S) * (dose > 0)
            a_unit(folder, arm, 100 + loop, 3 + 0.1 * (noise + growth))
    return folder
