"""Sampling images from a DDPM, with noise that does not depend on the batch size."""

import copy
import functools
import itertools
import math
import time
from dataclasses import dataclass, fields

import torch

from common.data import LabelledImages, quantised
from common.machine import processes, storage
from common.machine.errors import UserError
from common.machine.progress import Progress
from common.model.compiled import compiled_predicted

BLOCK = 100  # images that share a noise generator
CPU_ROWS = 25  # images in a pass on the CPU: 10 to 50 measured, 25 is fastest for n_feat 32 and 128


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


def plain_eps(ddpm, c, w):
    """eps(x_t, t) for the classes c (B,) under guidance w: what `DDPM.eps` says for one time t."""
    return lambda x_t, t: ddpm.eps(x_t, torch.full_like(c, t), c, w)


def predictions(n, w):
    """How many a step of n samples needs: with the class and, under guidance w, without."""
    return n if w == 0 else 2 * n


def fast_eps(ddpm, c, w, predicted=None):
    """`plain_eps` with less work, up to float rounding, for a ContextUnet.

    Classes are embedded once for all steps, times once per step instead of once per image, and the
    CPU gets as many images at a time as its caches hold. `predicted` computes the same as that of
    the network.
    """
    network, passes = ddpm.nn_model, predictions(1, w)
    hidden = torch.arange(passes, device=c.device).repeat_interleave(len(c))
    size = CPU_ROWS if c.device.type == "cpu" else len(hidden)
    predicted = predicted or network.predicted
    contexts = (part.split(size) for part in network.context(c.repeat(passes), hidden))
    contexts = list(zip(*contexts, strict=True))

    def eps(x_t, t):
        time = network.time(torch.full((1,), t, device=c.device) / ddpm.n_T)
        parts = x_t.repeat(passes, 1, 1, 1).split(size)
        noise = torch.cat([*map(predicted, parts, contexts, itertools.repeat(time))])
        if w == 0:
            return noise
        conditional, unconditional = noise.chunk(2)
        return (1 + w) * conditional - w * unconditional

    return eps


def ddpm_chain(ddpm, eps, noise):
    """x_0 float (B, 1, 28, 28) from n_T denoising steps: Algorithm 2 of Ho et al. 2020, with the
    variance sigma_t^2 = beta_t of its section 3.2.

    eps(x_t, t) predicts the noise; noise() gives standard normal (B, 1, 28, 28).
    """
    x_t = noise()
    for t in range(ddpm.n_T, 0, -1):
        x_t = ddpm.oneover_sqrta[t] * (x_t - ddpm.mab_over_sqrtmab[t] * eps(x_t, t))
        if t > 1:
            x_t = x_t + ddpm.sqrt_beta_t[t] * noise()
    return x_t


def ddim_chain(ddpm, eps, noise, sample_steps, eta=0.0, clip_x0=False):
    """x_0 float (B, 1, 28, 28) from sample_steps steps at evenly spaced times from n_T to 1:
    equations 12 and 16 of Song, Meng & Ermon 2020 (arXiv 2010.02502).

    eps and noise as in `ddpm_chain`. eta: 0 draws no noise but the first, 1 is ancestral sampling;
    the last step has none. clip_x0: each step's estimate of x_0 is clipped to [0, 1], and eps
    taken anew from it. ValueError unless sample_steps is 1 to n_T and eta 0 to 1.
    """
    if not 1 <= sample_steps <= ddpm.n_T:
        raise ValueError(f"sample_steps = {sample_steps} is not between 1 and n_T = {ddpm.n_T}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta} is not between 0 and 1")
    times = torch.linspace(ddpm.n_T, 1, sample_steps).round().int().tolist()
    sigmas, scales = ddpm.sqrtmab.tolist(), ddpm.sqrtab.tolist()  # sqrt(1 - alphabar), and of it
    x_t = noise()
    for t, s in zip(times, [*times[1:], 0], strict=True):
        eps_t = eps(x_t, t)
        x_0 = (x_t - sigmas[t] * eps_t) / scales[t]
        if clip_x0:
            x_0 = x_0.clamp(0, 1)
            eps_t = (x_t - scales[t] * x_0) / sigmas[t]
        if s == 0:  # the image itself: the schedule's entry 0 still has the noise of beta1
            return x_0
        # The share of time s's noise that is new: sigma of equation 16 is sigmas[s] * new.
        if scales[s] > 0.03:
            new = eta * math.sqrt(sigmas[t] ** 2 - sigmas[s] ** 2) / (scales[s] * sigmas[t])
        else:  # float32 no longer tells the two sigmas apart
            new = eta * math.sqrt(1 - (scales[t] / scales[s]) ** 2) / sigmas[t]
        x_t = scales[s] * x_0 + sigmas[s] * math.sqrt(max(0, 1 - new**2)) * eps_t
        if new > 0:
            x_t = x_t + sigmas[s] * new * noise()


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn from a network: constants of the scripts, by their names there.

    max_c: images at a time, at most; sampler: "ddpm", or "ddim" with sample_steps, eta and
    clip_x0; fast: False keeps to the plain network.
    """

    max_c: int
    sampler: str = "ddpm"
    sample_steps: int = 50
    eta: float = 0.0
    clip_x0: bool = False
    fast: bool = True

    @classmethod
    def of(cls, constants):
        """The sampling that a script's constants describe."""
        return cls(**{field.name: getattr(constants, field.name) for field in fields(cls)})

    def steps(self, n_T):
        """How many steps a chain has."""
        return self.sample_steps if self.sampler == "ddim" else n_T

    def chain(self):
        """`ddpm_chain` or `ddim_chain`, a function of (ddpm, eps, noise)."""
        if self.sampler == "ddpm":
            return ddpm_chain
        return functools.partial(
            ddim_chain, sample_steps=self.sample_steps, eta=self.eta, clip_x0=self.clip_x0
        )

    def for_inference(self, ddpm, n, w):
        """A copy of the DDPM, and what makes its eps(x_t, t) of (ddpm, c, w): `plain_eps`, or
        `fast_eps` with a network that is compiled where n samples are enough for it."""
        if not self.fast:
            return copy.deepcopy(ddpm).eval(), plain_eps
        ddpm = ddpm.frozen()
        rows = CPU_ROWS if ddpm.alpha_t.device.type == "cpu" else predictions(self.max_c, w)
        # Of the whole job: one that goes on where it was stopped must compile if it did before.
        n_passes = predictions(n, w) // rows * self.steps(ddpm.n_T)
        with torch.inference_mode():
            predicted = compiled_predicted(ddpm.nn_model, rows, n_passes)
        return ddpm, functools.partial(fast_eps, predicted=predicted)


def generate_samples(ddpm, n, w, sampling, *, seeds, stage, partial_path, save_every, name):
    """n samples as LabelledImages on the CPU, class-balanced, at guidance w.

    Noise comes from `seeds` by (stage, block of 100 images), so a different max_c starts from the
    same noise and differs by float rounding only. Every `save_every` seconds the finished batches
    are saved in `partial_path`, where a later call goes on. Several processes, all of which call
    this, take the batches in turns; the batches are the same for any number of them. UserError when
    a sample is not finite.
    """
    leads, device = processes.rank() == 0, ddpm.alpha_t.device
    done = processes.first(lambda: _saved(partial_path))
    labels, steps = balanced_labels(n, ddpm.nn_model.n_classes), sampling.steps(ddpm.n_T)
    chain = sampling.chain()
    ddpm, make_eps = sampling.for_inference(ddpm, n, w)
    saved_at = time.monotonic()
    at = len(done) * steps
    progress = Progress(name, n * steps, "image step", done=at, shown=leads, tenths=True)
    progress.saved(f"{len(done):,} of {n:,} images")

    def counted(eps):
        def counting(x_t, t):
            progress.to(progress.done + len(x_t))
            return eps(x_t, t)

        return counting

    while len(done) < n:
        start = len(done) + sampling.max_c * processes.rank()
        stop, mine = min(start + sampling.max_c, n), done[:0]
        if start < n:
            noise = BlockNoise(start, stop, lambda b: seeds.torch_generator(stage, b, device))
            with torch.inference_mode():
                x_0 = chain(ddpm, counted(make_eps(ddpm, labels[start:stop].to(device), w)), noise)
                mine = quantised(x_0).cpu() if x_0.isfinite().all() else None
        batches = processes.gathered(mine)
        if any(batch is None for batch in batches):
            raise UserError(
                f"{name}: the model's samples are not finite; retrain it with a smaller lrate"
            )
        done = torch.cat([done, *batches])
        progress.to(len(done) * steps)
        if leads and len(done) < n and time.monotonic() - saved_at >= save_every:
            storage.save(done, partial_path)
            saved_at = time.monotonic()
            progress.saved(f"{len(done):,} of {n:,} images")
    progress.close()
    return LabelledImages(done, labels)


def _saved(partial_path):
    if storage.verify(partial_path):
        return storage.load(partial_path)
    return torch.empty(0, 1, 28, 28, dtype=torch.uint8)
