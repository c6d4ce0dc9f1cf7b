"""What is measured of one checkpoint: spectra at the anchors, what costs less at more images."""

import numpy as np
import torch
from tqdm import tqdm

from common.machine import processes
from common.machine.device import full_precision
from common.spectrum import jacobian, posterior

N_TANGENT = 100  # the first of the held-out images: those of the tangent statistics

OF_J = ("eigenvalues", "trace", "asymmetry", *posterior.STATISTICS)
PER_GENERATION = (*OF_J, *posterior.TANGENT, "denoising_loss")


@processes.shared
def measure_checkpoint(ddpm, anchors, held_out, directions, times):
    """{name: array} for the names in PER_GENERATION, of a DDPM at these times.

    anchors, held_out: Anchors; directions: the principal ones (10, K, D) of each class. The
    processes take the images in turns.
    """
    device = processes.device().type
    ddpm = ddpm.to(device).frozen()
    chunk = 16 if device == "cpu" else 112  # rows of J at a time
    sigmas = ddpm.sqrtmab.double().tolist()
    noised = {
        (k, t): images.noised(ddpm, t, device)
        for k, images in enumerate((anchors, held_out))
        for t in times
    }

    def of_anchor(t, a):
        x_t, t_, c, _ = (part[a : a + 1] for part in noised[0, t])
        J = jacobian.jacobian(ddpm.eps, x_t, t_, c, chunk)
        eigenvalues = jacobian.eigenvalues(J)
        found = posterior.posterior_statistics(J, sigmas[t], eigenvalues)
        return {name: values[0] for name, values in found.items()} | {
            "eigenvalues": eigenvalues[0],
            "trace": jacobian.trace(J)[0],
            "asymmetry": jacobian.asymmetry(J)[0],
        }

    def of_held_out(t, a):
        x_t, t_, c, noise = (part[a : a + 1] for part in noised[1, t])
        at = x_t, t_, c, noise, sigmas[t], directions[c.item()]
        found = posterior.tangent_statistics(ddpm.eps, *at, chunk)
        return {name: values[0] for name, values in found.items()}

    kinds = ((of_anchor, OF_J, len(anchors.index)), (of_held_out, posterior.TANGENT, N_TANGENT))
    jobs = [(k, t, a) for k in (0, 1) for t in times for a in range(kinds[k][2])]
    bar = tqdm(
        jobs[processes.rank() :: processes.count()],
        desc="one in each process",
        unit="image",
        disable=None if processes.rank() == 0 else True,
        leave=False,
    )
    results = processes.gathered({(k, t, a): kinds[k][0](t, a) for k, t, a in bar})
    of_job = {job: found for result in results for job, found in result.items()}
    found = {
        name: np.stack([[of_job[k, t, a][name] for a in range(n)] for t in times])
        for k, (_, names, n) in enumerate(kinds)
        for name in names
    }
    with torch.inference_mode(), full_precision():
        losses = []
        for t in times:
            x_t, t_, c, noise = noised[1, t]
            losses.append((ddpm.eps(x_t, t_, c) - noise).double().square().mean().item())
    return {**found, "denoising_loss": np.stack(losses)}
