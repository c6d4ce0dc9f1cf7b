"""How much work lies ahead, counted and, after a trial of a few steps, in minutes."""

import time

import torch

from common import processes
from common.ddpm import DDPM
from common.sample import fast_eps, plain_eps, predictions
from common.train import Training
from common.unet import ContextUnet

TRIAL_ROWS = 32  # images in a trial on the CPU, whose time grows with their number


def announce_work(name, constants, n_images, n_generations, n_more=0):
    """Prints what training on n_images and sampling will take, per generation and in all, with
    n_more images of other models."""
    device = processes.device()
    ddpm = DDPM(
        ContextUnet(1, constants.n_feat, constants.n_classes),
        (constants.beta1, constants.beta2),
        constants.n_T,
    ).to(device)
    n_step, _ = Training.of(constants).steps(n_images)
    passes = _passes(constants)
    parameters = sum(parameter.numel() for parameter in ddpm.parameters())
    each = "" if n_generations == 1 else f"{n_generations} generations, each "
    print(
        f"{name}: {each}{n_step:,} training steps of {constants.batch_size} on {n_images:,} images "
        f"and {passes:,} passes of an image through {parameters:,} parameters to sample"
    )
    seconds_of_pass = _pass(ddpm, constants)
    seconds = n_step * _step(ddpm, constants) + passes * seconds_of_pass
    seconds = n_generations * seconds + n_more * _steps(constants) * seconds_of_pass
    print(f"{name}: about {duration(seconds)} of training and sampling")


def duration(seconds):
    """Seconds in words for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _passes(constants):
    """Images times steps, twice under guidance, that a generation's samples take."""
    w = getattr(constants, "w", 0)
    n_next = getattr(constants, "N_next", getattr(constants, "N_with_w", 0))
    n_next = 0 if getattr(constants, "control", False) else predictions(n_next, w)
    return (n_next + getattr(constants, "N_eval", 0)) * _steps(constants)


def _steps(constants):
    return constants.sample_steps if constants.sampler == "ddim" else constants.n_T


def _step(ddpm, constants):
    """Seconds of a training step."""
    rows, generator = _rows(constants.batch_size), torch.Generator(ddpm.alpha_t.device)
    x_0 = torch.zeros(rows, 1, 28, 28, device=ddpm.alpha_t.device)
    c = torch.zeros(rows, dtype=torch.int64, device=ddpm.alpha_t.device)
    ddpm.train().to(memory_format=torch.channels_last)
    ddpm.requires_grad_()
    return _seconds(lambda: ddpm(x_0, c, generator).backward()) * constants.batch_size / rows


@torch.inference_mode()
def _pass(ddpm, constants):
    """Seconds of an image's pass in sampling."""
    rows = _rows(constants.max_c)
    x_t = torch.zeros(rows, 1, 28, 28, device=ddpm.alpha_t.device)
    c = torch.zeros(rows, dtype=torch.int64, device=ddpm.alpha_t.device)
    ddpm = ddpm.eval().frozen() if constants.fast else ddpm.eval()
    eps = (fast_eps if constants.fast else plain_eps)(ddpm, c, 0)
    return _seconds(lambda: eps(x_t, 1)) / rows


def _rows(n):
    return n if torch.cuda.is_available() else min(n, TRIAL_ROWS)


def _seconds(work, repeats=3):
    """Seconds of one call of work(), after a first one that warms up."""
    for repeat in range(repeats + 1):
        if repeat == 1:
            started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats
