"""Fresh data loops, one for every guidance weight in Wall.

    python initialmain.py --Wall 0 0.25 0.5 1
    python mainall.py
    python mainall.py --Wall 1                                    one of the loops only

Writes to save_dir what main.py writes, for each w in its own files, weights.png and index.html.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import loop

# The loop
Wall = [0, 0.25, 0.5, 1]  # guidance weights, a loop for each
generation_number = 20  # generations, 0 to 19
N_with_w = 5000  # synthetic images in each training set
N_real = 1000  # real images in each training set
N_initial = 5000  # real images of the initial model, N_real of initialmain.py
resample_real = True  # False: always the same real images; "redraw": drawn anew, may repeat
N_eval = 10000  # images sampled for FID, PRDC and t-SNE
N_ref = 0  # real images that PRDC compares with; 0: all
max_c = 2500  # images sampled at a time; fewer need less memory
control = False  # True: real images for synthetic ones, in save_dir/control_seed{seed}

# The model and its training in each generation
dataset = "mnist"  # the real data, as in initialmain.py
init_from = "scratch"  # "scratch" (MAD paper), or "previous": go on from the previous model
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
save_dir = "./data/w0resam/"  # inputs from initialmain.py, and all outputs

if __name__ == "__main__":
    loop.mainall(globals())
