"""The whole project in a few minutes on a CPU: a fully synthetic loop on the built-in digits, the
Jacobian spectra of its models, and one summary figure.

    python jacobian/demo.py

Runs the real scripts with small overrides, printed so that they can be repeated by hand, and
writes jacobian/demo/summary.png beside all that the scripts write. A stopped demo continues.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import demo_figure

FOLDER = ROOT / "jacobian" / "demo"
MODEL = "--dataset digits --n_feat 16 --n_T 40 --beta2 0.25 --batch_size 32 --lrate 0.002"
STEPS = [
    f"FullSynthetic/DDPM-MNIST/initialmain.py {MODEL} --n_epoch 30 --N_with_w 400",
    f"FullSynthetic/DDPM-MNIST/main.py {MODEL} --n_epoch 30 --N_next 400 --N_eval 300"
    " --generation_number 5",
    "jacobian/spectra.py --dataset digits --n_anchors 10 --timesteps 100",
    "jacobian/compare.py",
    "jacobian/detect.py",
]
FOLDER_CONSTANT = ["--save_dirs", "--save_dir", "--run_dir", "--runs", "--runs"]


def main():
    started = time.monotonic()
    for step, folder_constant in zip(STEPS, FOLDER_CONSTANT, strict=True):
        script, *words = step.split()
        words += [folder_constant, str(FOLDER)]
        print(f"\n$ python {script} {' '.join(words)}", flush=True)
        done = subprocess.run([sys.executable, str(ROOT / script), *words])
        if done.returncode != 0:
            sys.exit(done.returncode)
    path = demo_figure.save(FOLDER)
    minutes = (time.monotonic() - started) / 60
    print(f"\nThe demo took {minutes:.1f} minutes. Open {path}")


if __name__ == "__main__":
    main()
