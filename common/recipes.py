"""Recipes: one name for the constants that belong together, `--recipe laptop`.

A training set has as many images in every scenario, and those of the initial model and of the
controls are no larger: else a change of size would look like MADness.
"""

# What makes recognisable digits on a CPU: see "The recipe" in jacobian/README.md.
_CPU = {
    "n_feat": 16,
    "n_step": 1000,
    "batch_size": 32,
    "lrate": 4e-3,
    "loss_weight": "min_snr",
    "sampler": "ddim",
    "sample_steps": 25,
    "eta": 1.0,
    "clip_x0": True,
    "N_eval": 1000,
    "save_every": 0.0,
}

_EVERYWHERE = {
    "laptop": {"dataset": "digits", **_CPU, "N_ref": 1000, "generation_number": 4},
    "mnist-cpu": {"dataset": "mnist", **_CPU, "N_ref": 10_000, "generation_number": 4},
}
NAMES = tuple(_EVERYWHERE)

# Training sets of 1,000 images.
_LOOP = {
    "FullSynthetic": {"N_next": 1000},
    "Fresh": {"N_with_w": 900, "N_real": 100, "N_initial": 1000},
    "AugmentedSynthetic": {"N_with_w": 500, "N_real": 500},
}
_INITIAL = {
    "FullSynthetic": {"N_real": 1000, "N_with_w": 1000},
    "Fresh": {"N_real": 1000, "N_with_w": 900},
    "AugmentedSynthetic": {"N_real": 1000, "N_with_w": 500},
}
_ANALYSIS = {"n_anchors": 20, "timesteps": [50, 100]}


def overrides(recipe, script, defaults):
    """{constant: value} that a recipe stands for in a script (its Path), of the constants that it
    has (`defaults`). KeyError for a recipe that does not exist."""
    scenario = script.parents[1].name
    own = (_INITIAL if script.stem == "initialmain" else _LOOP).get(scenario, _ANALYSIS)
    folder = f"./data/{recipe}/"
    run = f"../FullSynthetic/DDPM-MNIST/data/{recipe}/"
    folders = {"save_dir": folder, "save_dirs": [folder], "run_dir": run, "runs": [run]}
    stands_for = {**_EVERYWHERE[recipe], **own, **folders}
    return {name: value for name, value in stands_for.items() if name in defaults}
