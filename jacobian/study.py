"""Many loops and controls, and what they say: does the spectrum show MADness before FID does?

    python study.py --report                 the answer, from the files in study/{name}
    python study.py --name again             the test anew, on this machine's cores, and with it:
      --dry_run                              what would run here, and for how long
      --part 3/20                            the third of 20 parts, of a Slurm array
      --scheduler tcp://10.0.0.1:8786        on a Dask cluster

Each finished loop leaves one small file, study/{name}/{arm}_seed{seed}.npz. What is stopped, by
whatever means, goes on with the same command. The test's loops need study/PROTOCOL.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import study

# What runs
name = "digits2"  # the study's name: a folder in output_dir
role = "test"  # "pilot" to choose what is tested, "test" to test it, on other seeds
arms = ["control", "full", "dose25", "dose50", "full", "dose10"]  # kinds of loops, in this order
loops = [20, 2, 10, 10, 20, 10]  # how many there are to be of each by then
first_seed = 105  # of the loops; the next have the next ones, controls those from 1000 above
part = "1/1"  # which loops: the 3rd, 23rd, 43rd, ... for 3/20

# The loops
base = "laptop"  # recipe of every loop
N_train = 1000  # images in every training set
generation_number = 5  # generations after the initial model
overrides = []  # other constants of the scripts, such as n_step=500
keep = False  # True: models, samples and figures stay in study/{name}/runs

# Where models are differentiated
n_anchors = 20  # images, two of each class
timesteps = [25, 50, 100]  # of n_T = 500, at test images
sample_timesteps = [50]  # of n_T = 500, at samples of the initial model

# How it runs
n_jobs = -1  # loops at the same time, one thread each; -1: as many as there are cores
scheduler = ""  # address of a Dask scheduler, instead of this machine's cores
dry_run = False  # True: print what would run, and for how long
report = False  # True: write the answer from the files that are there
output_dir = "./study/"  # results

# What is claimed: see PROTOCOL.md
primary = "log_posterior_20"  # statistic of the spectrum
primary_t = 50  # its timestep, of n_T = 500
alpha = 0.05  # the fraction of loops without change that may alarm, in each stream

if __name__ == "__main__":
    study.main(globals())
