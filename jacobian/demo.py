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

from common.detect import summary
from common.machine.errors import one_line

FOLDER = ROOT / "jacobian" / "demo"
FROM_LOOP = "../../jacobian/demo"  # the same, relative to main.py
# Shorter than the recipe, which has 1,000 steps of 32 on 1,000 images: 700 of 16 on 400.
SHORTER = "--recipe laptop --n_step 700 --batch_size 16"
INITIAL = f"{SHORTER} --N_real 400 --N_with_w 400 --save_dirs {FROM_LOOP}"
GENERATION = f"{SHORTER} --N_next 400 --N_eval 400 --N_ref 400"
MAIN = f"FullSynthetic/DDPM-MNIST/main.py {GENERATION} --save_dir {FROM_LOOP}"
SPECTRA = "jacobian/spectra.py --n_anchors 10 --timesteps 50 --run_dir"
SEEDS = 1, 2  # of the control loops
CONTROLS = [f"demo/control_seed{seed}" for seed in SEEDS]
CORES = 2  # scripts at a time, each with one thread: faster than one script with two
LABEL = "{:<9} | "  # of the lines of scripts that run at the same time


def run(command, label=""):
    """Runs a script with one thread; each line that it prints begins with the label."""
    print(f"\n{label}$ python {command}", flush=True)
    with subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE if label else None,
        stderr=subprocess.STDOUT if label else None,
    ) as process:
        for line in process.stdout or ():
            print(f"{label}{line}", end="", flush=True)
    if process.returncode != 0:
        sys.exit(f"{command} ended with status {process.returncode}: see above")


def loop():
    label = LABEL.format("loop")
    run(f"{MAIN} --generation_number 3", label)
    run(f"{SPECTRA} demo", label)


def control(seed):
    command = f"{MAIN} --generation_number 2 --control True --seed {seed}"
    run(command, LABEL.format(f"control {seed}"))


def control_spectra(seed, made):
    made.result()  # its models
    run(f"{SPECTRA} demo/control_seed{seed}", LABEL.format(f"control {seed}"))


def main():
    started = time.monotonic()
    print("Recipe laptop, shorter: 700 steps of 16, not 1,000 of 32, on 400 images, not 1,000.")
    run(f"FullSynthetic/DDPM-MNIST/initialmain.py {INITIAL}")
    with ThreadPoolExecutor(CORES) as pool:  # takes work in this order, the longest first
        made = [pool.submit(loop), *[pool.submit(control, seed) for seed in SEEDS]]
        made += [pool.submit(control_spectra, *pair) for pair in zip(SEEDS, made[1:], strict=True)]
        try:
            for work in made:
                work.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what waits is not begun
            raise
    run(f"{MAIN} --generation_number 3")  # nothing but figures, over the bands of all controls
    run("jacobian/compare.py --runs demo")
    run(f"jacobian/detect.py --runs demo --controls {' '.join(CONTROLS)}")
    path, said = summary.save(FOLDER, [FOLDER.parent / folder for folder in CONTROLS])
    minutes = (time.monotonic() - started) / 60
    print(f"\n{said}\n\nThe demo took {minutes:.1f} minutes. Open {path}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with one_line():
        main()
