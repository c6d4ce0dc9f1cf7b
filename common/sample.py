"""Sampling images from a DDPM, with noise that does not depend on the batch size."""

import time

import torch
from tqdm import tqdm

from common import storage
from common.data import LabelledImages, quantised
from common.errors import UserError

BLOCK = 100  # images that share a noise generator


def balanced_labels(n, n_classes=10):
    """Labels int64 (n,): 0, 1, ..., n_classes - 1 again and again, whatever the batch size."""
    return torch.arange(n) % n_classes


class BlockNoise:
    """Standard normal noise for images start..stop - 1 of a job, drawn per block of 100 images.

    Image i gets the same numbers in the same order whatever start and stop are.
    """

    def __init__(self, start, stop, generator_of_block):
        first, last = start // BLOCK, (stop - 1) // BLOCK
        self.generators = [generator_of_block(block) for block in range(first, last + 1)]
        self.wanted = slice(start - first * BLOCK, stop - first * BLOCK)

    def __call__(self):
        """The next noise for each image, float32 (stop - start, 1, 28, 28)."""
        blocks = [
            torch.randn(BLOCK, 1, 28, 28, generator=generator, device=generator.device)
            for generator in self.generators
        ]
        return torch.cat(blocks)[self.wanted]


def ddpm_chain(ddpm, c, w, noise):
    """x_0 float (B, 1, 28, 28) from n_T denoising steps: Algorithm 2 of Ho et al. 2020, with the
    variance sigma_t^2 = beta_t of its section 3.2.

    c int64 (B,); w the guidance weight; noise() gives standard normal (B, 1, 28, 28).
    """
    x_t = noise()
    for t in range(ddpm.n_T, 0, -1):
        eps = ddpm.eps(x_t, torch.full_like(c, t), c, w)
        x_t = ddpm.oneover_sqrta[t] * (x_t - ddpm.mab_over_sqrtmab[t] * eps)
        if t > 1:
            x_t = x_t + ddpm.sqrt_beta_t[t] * noise()
    return x_t


@torch.inference_mode()
def generate_samples(ddpm, n, w, *, max_c, seeds, stage, partial_path, save_every, name):
    """n samples as LabelledImages on the CPU, class-balanced, in batches of at most max_c images.

    Noise comes from `seeds` by (stage, block of 100 images), so a different max_c starts from the
    same noise and differs by float rounding only. Every `save_every` seconds the finished batches
    are saved in `partial_path`, where a later call goes on. UserError when a sample is not finite.
    """
    device = ddpm.alpha_t.device
    ddpm = ddpm.frozen()
    labels = balanced_labels(n, ddpm.nn_model.n_classes)
    done = (
        storage.load(partial_path)
        if storage.intact(partial_path)
        else torch.empty(0, dtype=torch.uint8)
    )
    finished = [done.reshape(-1, 1, 28, 28)]
    start = len(done)
    saved_at = time.monotonic()
    bar = tqdm(initial=start, total=n, desc=name, unit="image", disable=None, leave=False)
    while start < n:
        stop = min(start + max_c, n)
        noise = BlockNoise(start, stop, lambda b: seeds.torch_generator(stage, b, device))
        x_0 = ddpm_chain(ddpm, labels[start:stop].to(device), w, noise)
        if not x_0.isfinite().all():
            raise UserError(
                f"{name}: the model's samples are not finite; retrain it with a smaller lrate"
            )
        finished.append(quantised(x_0).cpu())
        bar.update(stop - start)
        start = stop
        if start < n and time.monotonic() - saved_at >= save_every:
            storage.save(torch.cat(finished), partial_path)
            saved_at = time.monotonic()
    bar.close()
    return LabelledImages(torch.cat(finished), labels)
