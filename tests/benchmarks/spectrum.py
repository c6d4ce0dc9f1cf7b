"""Times the Jacobian against textbook code, on one anchor of one network in one process.

    python tests/benchmarks/spectrum.py

The network (n_feat = 32) is first trained for a minute on the built-in digits. The textbook code
gets it in eval mode with parameters that need no gradient; ours the `frozen` copy. Repeats are
interleaved, so that other work on the machine hits all alike, and their medians compared.
"""

import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import textbook_spectrum
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.data import batches, load_real
from common.model.ddpm import DDPM
from common.model.unet import ContextUnet, frozen
from common.spectrum import jacobian, posterior

N_FEAT = 32
N_EPOCH = 4  # of 1,500 digits
T = 100  # of 500
REPEATS = 5
THREADS = 2


def trained_network(data):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    ddpm = DDPM(ContextUnet(1, N_FEAT)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=1e-3)
    for _ in range(N_EPOCH):
        for x_0, c in batches(data, 50, generator):
            optimizer.zero_grad()
            ddpm(x_0, c, generator).backward()
            optimizer.step()
    return ddpm.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def seconds_of(functions):
    """Each function's result and its median time, over interleaved repeats after a first call."""
    results = {name: function() for name, function in functions.items()}
    seconds = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return results, {name: statistics.median(times) for name, times in seconds.items()}


def main():
    torch.set_num_threads(THREADS)
    data = load_real("digits")
    textbook = trained_network(data)
    ours = DDPM(frozen(textbook.nn_model)).eval()
    t, c = torch.tensor([T]), data.labels[:1]
    eps = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    anchor = textbook.noised(data.images[:1].float() / 255, eps, t), t, c

    sigma = ours.sqrtmab[t].double().numpy()
    of_class = data.images[data.labels == c]
    directions = posterior.principal_directions(of_class, 20)
    J = jacobian.jacobian(ours.eps, *anchor)
    eigenvalues = jacobian.eigenvalues(J)

    results, seconds = seconds_of(
        {
            "textbook, loop": lambda: textbook_spectrum.full_spectrum(textbook.eps, *anchor),
            "textbook, loop with a forward pass per row": lambda: textbook_spectrum.full_spectrum(
                textbook.eps, *anchor, forward_per_row=True
            ),
            "jacobian": lambda: jacobian.jacobian(ours.eps, *anchor),
            "full": lambda: jacobian.eigenvalues(jacobian.jacobian(ours.eps, *anchor))[0],
            "posterior": lambda: posterior.posterior_statistics(J, sigma, eigenvalues),
            "tangent": lambda: posterior.tangent_statistics(
                ours.eps, *anchor, eps, sigma, directions
            ),
        }
    )

    exact = results["textbook, loop"]
    print(f"{platform.machine()}, {THREADS} of {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"n_feat {N_FEAT}, t = {T}, one anchor, medians of {REPEATS} interleaved repeats")
    print("\nfull spectrum, 784 eigenvalues")
    for name in ("textbook, loop", "textbook, loop with a forward pass per row", "full"):
        error = np.abs(results[name] / exact - 1).max()
        print(f"  {name:44s}{seconds[name]:8.3f} s   relative difference {error:.0e}")
    print(f"  {'  of which J':44s}{seconds['jacobian']:8.3f} s")
    print("\nbeside J and its spectrum, statistics of the posterior covariance")
    print(f"  {'posterior_statistics, from the same J':44s}{seconds['posterior']:8.3f} s")
    print(f"  {'tangent_statistics, without J':44s}{seconds['tangent']:8.3f} s")
    print()
    for name, other, target in (
        ("full", "textbook, loop", 0.3),
        ("full", "textbook, loop with a forward pass per row", 0.3),
        ("posterior", "full", 0.25),
        ("tangent", "full", 0.1),
    ):
        ratio = seconds[name] / seconds[other]
        print(f"{name} / {other}: {ratio:.2f} (target: at most {target:.2f})")


if __name__ == "__main__":
    main()
