"""Fresh data loop, first step: train on real data and generate the initial synthetic data.

    python initialmain.py --recipe laptop   on a CPU
    python initialmain.py                   the published setting

Writes to every folder in save_dirs: model_initial.pth, the feature network prmodel.pth,
gen_data_with_w_initial_w{w} and gen_index_with_w_initial_w{w} for each w in Wall, and
run_initial.json. What is there already is kept.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import loop

# What is generated
N_with_w = 5000  # synthetic images for generation 0
Wall = [0]  # guidance weights, initial data for each
max_c = 500  # images sampled at a time; fewer need less memory

# The model and its training on real data
dataset = "mnist"  # or "fashion_mnist", "kmnist", "digits" (built in), a path of an .npz file
N_real = 5000  # real images of the initial model, never used as fresh ones
n_epoch = 1000  # passes over the training set
n_step = 0  # training steps; 0: as many as n_epoch passes take
batch_size = 128  # images per training step
lrate = 1e-4  # learning rate at the start; falls linearly to 0
loss_weight = "plain"  # "plain", or "min_snr": errors at small t weigh less
amp = False  # True: train in bfloat16; 4 % faster on an H100
n_T = 500  # denoising steps
beta1 = 1e-4  # noise variance at the first step
beta2 = 0.02  # noise variance at the last step; 10 / n_T suits other n_T
n_feat = 128  # feature maps of ContextUnet, a multiple of 8
n_classes = 10  # classes of digits

# Sampling
sampler = "ddpm"  # "ddpm": the published chain of n_T steps; "ddim": sample_steps steps
sample_steps = 50  # steps of "ddim", at most n_T
eta = 0.0  # new noise in the steps of "ddim": 0 none, 1 ancestral
clip_x0 = False  # True: "ddim" clips its estimate of the image to [0, 1] in every step
fast = True  # False: sample with the plain network, slower and the same up to rounding

# The run
seed = 0  # every random number follows from it
deterministic = False  # True: bit-identical repeats on CUDA too, slower
save_every = 120  # seconds between saved states, at ends of epochs and of batches of samples
save_dirs = ["./data/w0resam/"]  # outputs, in each of these folders

if __name__ == "__main__":
    loop.initialmain(globals())
