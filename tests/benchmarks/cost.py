"""What the published settings cost on one GPU: estimated from counted operations, and measured.

    python tests/benchmarks/cost.py

PyTorch counts the floating-point operations of a pass of ContextUnet (n_feat = 128); the rest is
arithmetic. Before: two passes per denoising step also at w = 0, as in the public code. After: one.
Where there is a CUDA GPU, some steps and passes are timed there, set up as the scripts do, and the
same table follows with what they took.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.data import LabelledImages
from common.loop.forecast import _seconds as seconds
from common.machine import device
from common.model.compiled import ENOUGH_PASSES
from common.model.ddpm import DDPM
from common.model.sample import Sampling, balanced_labels
from common.model.train import Training, train_ddpm
from common.model.unet import ContextUnet
from common.seeds import Seeds
from common.spectrum.jacobian import eigenvalues, jacobian

GPU = 40e12  # operations per second sustained: a quarter of the TF32 peak of an A100 (156e12)
N_T = 500
DDIM_STEPS = 50
BATCH, ROWS, CHUNK = 128, 2500, 112  # images trained on, sampled, rows of J at a time

# generations, images per training set x epochs, images sampled per generation: to train on (w = 0),
# to evaluate
SETTINGS = {
    "FullSynthetic": (20, 60_000 * 40, (60_000, 1_000)),
    "Fresh": (20, 6_000 * 1_000, (5_000, 10_000)),
    "AugmentedSynthetic": (10, 120_000 * 60, (60_000, 10_000)),
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


def print_hours(trained_image, pass_):
    """The table of hours, of the seconds that a trained image and a pass of an image take, the
    latter by whether the pass is compiled."""
    print("\n| setting | training | sampling, before | sampling, after | with 50 DDIM steps |")
    print("| --- | --- | --- | --- | --- |")
    for name, (generations, trained, sampled) in SETTINGS.items():
        of_steps = [
            sum(n * steps * pass_[n // ROWS * steps >= ENOUGH_PASSES] for n in sampled)
            for steps in (N_T, DDIM_STEPS)
        ]
        work = trained * trained_image, 2 * of_steps[0], *of_steps
        cells = (f"{generations * each / 3600:.1f} h" for each in work)
        print(f"| {name} | {' | '.join(cells)} |")


def seconds_of_training(ddpm, n_step=400, **options):
    """Seconds per image of the scripts' own training loop, with all that belongs to it."""
    n = BATCH * n_step
    images = torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8).cuda()
    data = LabelledImages(images, balanced_labels(n).cuda())
    training = Training(n_epoch=1, batch_size=BATCH, lrate=1e-4, **options)
    folder = Path(tempfile.mkdtemp())
    files = {"state_path": folder / "state", "losses_path": folder / "losses", "save_every": 1e9}
    files |= {"seeds": Seeds(0, "cost"), "name": "training"}
    return seconds(lambda: train_ddpm(ddpm, data, training, **files), 1) / n


def seconds_of_pass(ddpm, n, repeats=20):
    """Seconds per image of a pass in sampling n images, which decides whether it is compiled."""
    frozen, make_eps = Sampling(max_c=ROWS).for_inference(ddpm, n, 0)
    x_t = torch.randn(ROWS, 1, 28, 28, device="cuda")
    with torch.inference_mode():
        eps = make_eps(frozen, balanced_labels(ROWS).cuda(), 0)
        return seconds(lambda: eps(x_t, 250), repeats) / ROWS


def seconds_of_spectrum(ddpm, repeats=3):
    """Seconds of the spectrum at one anchor and time."""
    frozen, one = ddpm.frozen(), torch.ones(1, dtype=torch.int64, device="cuda")
    x_t = torch.randn(1, 1, 28, 28, device="cuda")
    return seconds(lambda: eigenvalues(jacobian(frozen.eps, x_t, one, one, CHUNK)), repeats)


def estimate():
    """Prints the hours that counting gives; operations of a pass forwards, and both ways."""
    forward, step = operations(False), operations(True)
    print(
        f"a pass of one image: {forward / 1e9:.2f} GFLOP, {step / 1e9:.2f} with backwards; "
        f"hours at {GPU / 1e12:.0f} TFLOP/s sustained, all generations, w = 0"
    )
    print_hours(step / GPU, [forward / GPU] * 2)
    return forward, step


def main():
    forward, step = estimate()
    if not torch.cuda.is_available():
        print("\nno CUDA GPU here: nothing measured")
        return
    device.use(deterministic=False)
    print(f"torch {torch.__version__}")
    ddpm = DDPM(ContextUnet(1, 128), n_T=N_T).cuda()
    trained = {amp: seconds_of_training(ddpm, amp=amp) for amp in (False, True)}
    passes = [seconds_of_pass(ddpm, n) for n in (ROWS, 60_000)]
    print("a second:")
    for amp, of_image in trained.items():
        rate = f"{1 / of_image:,.0f} trained images ({step / of_image / 1e12:.0f} TFLOP/s)"
        print(f"{rate} in {'bfloat16' if amp else 'TF32'}")
    for words, of_pass in zip(("not compiled", "compiled"), passes, strict=True):
        rate = f"{1 / of_pass:,.0f} passes of an image ({forward / of_pass / 1e12:.0f} TFLOP/s)"
        print(f"{rate}, {words}")
    print("hours of the scripts, in TF32")
    print_hours(trained[False], passes)
    print(f"\nspectrum of one anchor at one time: {seconds_of_spectrum(ddpm):.2f} s")


if __name__ == "__main__":
    main()
