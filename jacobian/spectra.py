"""The exact spectrum of J^T J, J = d eps_theta(x_t, t) / d x_t, of every checkpoint of a run.

    python spectra.py
    python spectra.py --run_dir ../Fresh/MNIST-DDPM/data/w0resam --w 0

Writes spectra_w{w}.npz to run_dir (spectra_of_samples_w{w}.npz for anchors_from samples),
generation by generation; a run that was stopped, or that has grown, continues. Needs only
checkpoints: model_{generation}_w{w}.pth, and model_initial.pth as the baseline before generation 0
when it is there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import spectrum

# Which checkpoints
run_dir = "../FullSynthetic/DDPM-MNIST/data/diffusion_outputs10/"  # folder of a run
w = 0  # guidance weight of the run
generations = []  # generations to measure; none named: all

# Where they are differentiated
dataset = "mnist"  # the real data, where the run has no record that names them
anchors_from = "test"  # real "test" images, or "samples" of the initial model: no real images
n_anchors = 20  # images, two of each class
timesteps = [50, 100, 250, 400]  # of n_T = 500; scaled to the model's n_T
seed = 0  # of anchors and noise: the same for all runs to be compared

if __name__ == "__main__":
    spectrum.spectra(globals())
