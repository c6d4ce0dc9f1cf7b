"""When did MADness become visible in the Jacobian spectrum, and when in FID?

    python detect.py                                                        uncalibrated
    python detect.py --controls .../control_seed0 .../control_seed1 ...     calibrated

Each folder needs spectra_w{w}.npz (spectra.py) and metrics_w{w}.csv (main.py). Control loops, in
which every generation trains on real data, are made by `python main.py --control True --seed 1`,
once for every w: their files are those of w = 0. What was not made and measured alike is refused.
Prints a table and writes onset_w{w}.json and onset_w{w}.png to the first run's folder. A file of
a study, study/digits/full_seed101.npz, stands for a folder; control_seed* for all so named.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import detect

runs = ["../FullSynthetic/DDPM-MNIST/data/diffusion_outputs10/"]  # folders (or files) of loops
controls = []  # folders (or files) of two or more control loops of the same recipe
w = 0  # guidance weight of the loops

# What is claimed, chosen before looking; every other stream is exploratory
primary = "log_posterior_20"  # statistic of the spectrum
primary_t = 50  # its timestep, of n_T = 500
alpha = 0.05  # the fraction of loops without change that may alarm, in each stream
seed = 0  # of the bootstrap over loops

if __name__ == "__main__":
    detect.detection(globals())
