"""The record of how a run was made: run_w{w}.json, which binds from the first finished stage on."""

import platform
import subprocess
from pathlib import Path

import numpy as np
import sklearn
import torch
import torchvision

from common.machine import storage
from common.machine.errors import UserError
from common.rules import kind_of_data

# Constants that only extend or batch a run, and may change when it continues. A page needs some.
SHOWN = ("generation_number", "max_c", "save_every", "recipe", "initial_seed")
FREE = (*SHOWN, "save_dir", "save_dirs", "Wall", "w", "script", "words")

# What a record means that lacks a constant, because it was made before there was one.
PUBLISHED_DEFAULTS = {
    "n_step": 0,
    "loss_weight": "plain",
    "amp": False,
    "sampler": "ddpm",
    "sample_steps": 50,
    "eta": 0.0,
    "clip_x0": False,
    "init_from": "scratch",
    "control": False,
    "N_ref": 0,
}


def save_record(path, constants, scenario, inputs, binding, **current):
    """Writes how a run is made; checks it when the run continues.

    constants: those of the script; scenario: the name of what it runs; inputs: {file name or
    dataset: hash}. UserError names the constants and inputs that changed since the run began, if
    the record is `binding`: a finished stage was made with them. Until then it is written anew.
    current: what else may change, kept as it is now.
    """
    fixed = {name: value for name, value in vars(constants).items() if name not in FREE}
    folder = "/".join(constants.script.parts[-3:-1])
    free = {name: getattr(constants, name) for name in SHOWN if hasattr(constants, name)}
    current = {"scenario": scenario, "folder": folder, **free, **current}
    made = {
        **current,
        "constants": fixed,
        "inputs": inputs,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }
    if not path.exists() or not binding:
        if binding:
            print(
                f"note: {path.name} was missing: it says from now on that what is there was made "
                "with the constants of this script"
            )
        storage.save_json(made, path)
        return
    if not storage.verify(path):
        raise UserError(
            f"{path.name}, the record of this run's constants, was damaged: make sure that the "
            "constants are still the same, then run the same command again"
        )
    before = storage.load_json(path)
    for kind in ("constants", "inputs"):
        old, new = ({**PUBLISHED_DEFAULTS, **each[kind]} for each in (before, made))
        if kind == "constants":  # of a file its content counts, which is among the inputs
            old, new = ({**of, "dataset": kind_of_data(of.get("dataset"))} for of in (old, new))
        changed = [
            f"{name} (was {old.get(name)}, is {new.get(name)})"
            for name in dict.fromkeys([*old, *new] if kind == "constants" else new)
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise UserError(
                f"{path.name} in {path.parent} began with other {kind}: {', '.join(changed)}; "
                "restore them, or start a new run, initialmain.py first, in another save_dir"
            )
    for kind in ("versions", "device", "threads"):
        if before[kind] != made[kind]:
            print(
                f"note: this run began with {kind} {before[kind]}, not {made[kind]}: "
                "results may differ by float rounding"
            )
    now = at({**before, **current}, constants.dataset)
    if now != before:
        storage.save_json(now, path)


def at(record, dataset):
    """A record with the path at which a file of one's own lies now."""
    return {**record, "constants": {**record["constants"], "dataset": dataset}}


def _commit():
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
