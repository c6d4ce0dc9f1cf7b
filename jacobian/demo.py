"""The whole project in a few minutes on a CPU: a fully synthetic loop on the built-in digits beside
control models that only ever see real digits, their Jacobian spectra, and one summary figure.

    python jacobian/demo.py

Runs the real scripts, with their commands printed so that they can be repeated by hand, and writes
jacobian/demo/summary.png beside all that the scripts write. A stopped demo continues.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import demo_figure

FOLDER = ROOT / "jacobian" / "demo"
FROM_LOOP = "../../jacobian/demo"  # the same, relative to main.py
# Shorter than the recipe: batches and sets of half the images, and fewer steps.
TRAINING = "--recipe laptop --n_step 800 --batch_size 16"
INITIAL = f"{TRAINING} --N_real 500 --N_with_w 500 --save_dirs {FROM_LOOP}"
GENERATION = f"{TRAINING} --N_next 500 --N_eval 500 --N_ref 500"
MAIN = f"FullSynthetic/DDPM-MNIST/main.py {GENERATION} --save_dir {FROM_LOOP}"
SPECTRA = "jacobian/spectra.py --n_anchors 10 --timesteps 50 --run_dir"
SEEDS = 1, 2  # of the control loops


def run(command, label=None):
    """Runs a script; with a label it has one thread, and each line that it prints has the label."""
    print(f"\n$ python {command}", flush=True)
    words = [sys.executable, *command.split()]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"} if label else None
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=one_thread,
        text=True,
        stdout=subprocess.PIPE if label else None,
        stderr=subprocess.STDOUT if label else None,
    ) as process:
        for line in process.stdout or ():
            print(f"{label} | {line}", end="", flush=True)
    if process.returncode != 0:
        sys.exit(f"{command} ended with status {process.returncode}: see above")


def loop():
    run(f"{MAIN} --generation_number 3", "loop    ")
    run(f"{SPECTRA} demo", "loop    ")


def controls():
    for seed in SEEDS:
        run(f"{MAIN} --generation_number 2 --control True --seed {seed}", "controls")
        run(f"{SPECTRA} demo/control_seed{seed}", "controls")


def main():
    started = time.monotonic()
    print("Recipe laptop with 500 images and 800 training steps of 16 (not 1,000 and 1,000 of 32).")
    run(f"FullSynthetic/DDPM-MNIST/initialmain.py {INITIAL}")
    with ThreadPoolExecutor() as pool:  # two processes with a thread each do more than one with two
        for chain in [pool.submit(loop), pool.submit(controls)]:
            chain.result()
    run("jacobian/compare.py --runs demo")
    judges = [f"demo/control_seed{seed}" for seed in SEEDS]
    run(f"jacobian/detect.py --primary_t 50 --runs demo --controls {' '.join(judges)}")
    path, said = demo_figure.save(FOLDER, [FOLDER.parent / judge for judge in judges])
    minutes = (time.monotonic() - started) / 60
    print(f"\n{said}\n\nThe demo took {minutes:.1f} minutes. Open {path}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
