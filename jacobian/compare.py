"""Generation 0 against the last, and the way between: figures of the Jacobian spectra of runs.

    python spectra.py
    python compare.py
    python compare.py --runs ../FullSynthetic/DDPM-MNIST/data/t500 ../Fresh/MNIST-DDPM/data/w0resam

Writes to each run's folder: eigenvalues_w{w}.png, densities_w{w}.png, sigmaJ_w{w}.png,
statistics_w{w}.png and compare_w{w}.csv; for several runs also overlay_w{w}.png, their statistics
together, together_w{w}.png, their metrics over those of their controls, and comparison_w{w}.html,
to the first run's folder. Control loops beside a run
whose spectra are there are grey, of several runs those that are controls of all.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import spectrum

runs = ["../FullSynthetic/DDPM-MNIST/data/diffusion_outputs10/"]  # folders with spectra_w{w}.npz
w = 0  # guidance weight of the runs

if __name__ == "__main__":
    spectrum.comparison(globals())
