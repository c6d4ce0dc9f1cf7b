"""SHA-256 of all that tiny runs compute: the check of a change that must change no number.

    python tests/bits.py > before.txt        and after the change
    python tests/bits.py | diff before.txt -

Three scenarios at w = 0 and 1 with a control each, both samplers, spectra, detection, on one
thread. Models, samples, tables and each array of an .npz; not times, records and figures.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TINY = "--dataset digits --n_feat 8 --n_T 8 --beta2 0.5 --n_epoch 1 --batch_size 32 --lrate 1e-3"
SIZES = {  # of initialmain.py, of main.py
    "FullSynthetic/DDPM-MNIST": ("--N_with_w 60", "--N_next 60"),
    "Fresh/MNIST-DDPM": ("--N_with_w 40 --N_real 60", "--N_with_w 40 --N_real 20 --N_initial 60"),
    "AugmentedSynthetic/DDPM-MNIST": (
        "--N_with_w 30 --N_real 60",
        "--N_with_w 30 --N_real 30 --accumulate False",
    ),
}
DDIM = "--sampler ddim --sample_steps 4 --eta 1 --clip_x0 True --loss_weight min_snr"


def run(script, *words):
    """Runs a script of the project on one thread; what it prints is shown where it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *" ".join(words).split()],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(words)}\n{done.stdout}{done.stderr}")


def make(folder):
    """All the runs, in subfolders of `folder`."""
    for scripts, (initial, size) in SIZES.items():
        for sampler in ("", DDIM) if scripts.startswith("Full") else ("",):
            home = folder / (scripts.split("/")[0] + ("-ddim" if sampler else ""))
            home.mkdir()
            if (folder / "FullSynthetic" / "prmodel.pth").exists():  # all have the same one
                shutil.copy(folder / "FullSynthetic" / "prmodel.pth", home)
            size_all = f"{size} --N_eval 220 --generation_number 2 --save_dir {home}"
            run(
                f"{scripts}/initialmain.py",
                TINY,
                sampler,
                initial,
                f"--save_dirs {home} --Wall 0 1",
            )
            run(f"{scripts}/mainall.py", TINY, sampler, size_all, "--Wall 0 1")
            run(f"{scripts}/main.py", TINY, sampler, size_all, "--control True --seed 0")
    home = folder / "FullSynthetic"
    run(
        "FullSynthetic/DDPM-MNIST/main.py",
        TINY,
        f"--N_next 60 --N_eval 220 --generation_number 2 --save_dir {home} --control True --seed 1",
    )
    controls = [home / f"control_seed{seed}" for seed in (0, 1)]
    for each in (home, *controls):
        run("jacobian/spectra.py", f"--run_dir {each} --n_anchors 10 --timesteps 100")
    run(
        "jacobian/detect.py",
        f"--runs {home} --controls {controls[0]} {controls[1]} --primary_t 100",
    )
    run(
        "jacobian/spectra.py",
        f"--run_dir {home} --n_anchors 10 --timesteps 100 --anchors_from samples",
    )


def hashes(folder):
    """(what, SHA-256) of each file of numbers in the folder, by name."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            path.is_dir()
            or path.parent.name == "hashes"
            or path.name.startswith(("run_", "timings"))
        ):
            continue
        if path.suffix in (".png", ".pdf", ".svg", ".html", ".lock"):
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                for key in sorted(arrays):
                    yield f"{name}:{key}", hashlib.sha256(arrays[key].tobytes()).hexdigest()
        else:
            content = path.read_bytes().replace(str(folder).encode(), b"")  # JSON names folders
            yield name, hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        make(Path(made))
        for name, digest in hashes(Path(made)):
            print(digest, name)
