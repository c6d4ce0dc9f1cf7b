"""How much work lies ahead, counted and, after a trial of a few steps, in minutes."""

import time

import torch

from common.machine import processes
from common.machine.progress import duration
from common.model.ddpm import DDPM
from common.model.sample import Sampling, fast_eps, plain_eps, predictions
from common.model.train import Training
from common.model.unet import ContextUnet
from common.spectrum.jacobian import jacobian

TRIAL_ROWS = 32  # images in a trial on the CPU, whose time grows with their number


def announce_work(name, constants, n_images, n_more=0):
    """Prints what training and sampling will take, per generation and in all: n_images [...] for
    each generation to train on, and n_more to sample of other models."""
    ddpm = _untrained(constants)
    n_steps, passes = [Training.of(constants).steps(n)[0] for n in n_images], _passes(constants)
    parameters = sum(parameter.numel() for parameter in ddpm.parameters())
    each = "" if len(n_images) == 1 else f"{len(n_images)} generations, each "
    print(
        f"{name}: {each}{_span(n_steps)} training steps of {constants.batch_size} on "
        f"{_span(n_images)} images and {passes:,} passes of an image through {parameters:,} "
        "parameters to sample"
    )
    of_pass = _pass(ddpm, constants)
    more = n_more * Sampling.of(constants).steps(constants.n_T)
    seconds = sum(n_steps) * _step(ddpm, constants) + (len(n_images) * passes + more) * of_pass
    print(f"{name}: about {duration(seconds)} of training and sampling")


def _span(numbers):
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def generation_seconds(constants, n_images):
    """Seconds that a generation's training on n_images and its samples take, by a short trial."""
    ddpm, (n_step, _) = _untrained(constants), Training.of(constants).steps(n_images)
    return n_step * _step(ddpm, constants) + _passes(constants) * _pass(ddpm, constants)


def spectrum_seconds(constants, n_jacobians):
    """Seconds that so many Jacobians take, by a trial of one."""
    ddpm = _untrained(constants).eval().frozen()
    x_t, one = torch.zeros(1, 1, 28, 28, device=ddpm.alpha_t.device), torch.ones(1).long()
    one = one.to(ddpm.alpha_t.device)
    return n_jacobians * _seconds(lambda: jacobian(ddpm.eps, x_t, one, one), repeats=1)


def _untrained(constants):
    network = ContextUnet(1, constants.n_feat, constants.n_classes)
    betas = constants.beta1, constants.beta2
    return DDPM(network, betas, constants.n_T).to(processes.device())


def _passes(constants):
    """Images times steps, twice under guidance, that a generation's samples take."""
    weights = [constants.w] if hasattr(constants, "w") else constants.Wall
    n_next = getattr(constants, "N_next", getattr(constants, "N_with_w", 0))
    n_next = sum(predictions(n_next, w) for w in weights)
    n_next = 0 if getattr(constants, "control", False) else n_next
    return (n_next + getattr(constants, "N_eval", 0)) * Sampling.of(constants).steps(constants.n_T)


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
