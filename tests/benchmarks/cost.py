"""What the published settings cost on one GPU: an estimate from counted operations.

    python tests/benchmarks/cost.py

PyTorch counts the floating-point operations of a pass of ContextUnet (n_feat = 128); the rest is
arithmetic. Before: two passes per denoising step also at w = 0, as in the public code. After: one.
"""

import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.model.unet import ContextUnet

GPU = 40e12  # operations per second sustained: a quarter of the TF32 peak of an A100 (156e12)
N_T = 500
DDIM_STEPS = 50

# generations, images per training set x epochs, images sampled per generation (w = 0)
SETTINGS = {
    "FullSynthetic": (20, 60_000 * 40, 60_000 + 1_000),
    "Fresh": (20, 6_000 * 1_000, 5_000 + 10_000),
    "AugmentedSynthetic": (10, 120_000 * 60, 60_000 + 10_000),
}


def operations(backward, batch=8):
    """Floating-point operations of a pass per image, forwards or forwards and backwards."""
    network = ContextUnet(1, 128).train(backward)
    c = torch.zeros(batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        predicted = network(torch.zeros(batch, 1, 28, 28), c, torch.ones(batch), torch.zeros(batch))
        if backward:
            predicted.sum().backward()
    return counter.get_total_flops() / batch


def main():
    forward, step = operations(False), operations(True)
    print(
        f"a pass of one image: {forward / 1e9:.2f} GFLOP, {step / 1e9:.2f} with backwards; "
        f"hours at {GPU / 1e12:.0f} TFLOP/s sustained, all generations, w = 0"
    )
    print("\n| setting | training | sampling, before | sampling, after | with 50 DDIM steps |")
    print("| --- | --- | --- | --- | --- |")
    for name, (generations, trained, sampled) in SETTINGS.items():
        hours = generations / GPU / 3600
        training, pass_ = hours * trained * step, hours * sampled * forward
        cells = training, 2 * N_T * pass_, N_T * pass_, DDIM_STEPS * pass_
        print(f"| {name} | {' | '.join(f'{cell:.1f} h' for cell in cells)} |")


if __name__ == "__main__":
    main()
