"""What the streams of one generation cost: seconds on one core, and the images that they need.

    python tests/benchmarks/streams.py FullSynthetic/DDPM-MNIST/data/laptop [costs.csv]

Measures generation 0 of a run (w = 0) with its own recipe, as `main.py` and `spectra.py` do, but
for one timestep: one whole after another, medians of so many repeats. Let nothing else run beside.
The table goes to the file, too: jacobian/study/digits2/costs.csv is on the page of that study.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.data import load_real
from common.machine import storage
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import extract_mnist_features
from common.metrics.neighbours import distance_to_training, entropy
from common.metrics.prdc import compute_prdc_slice, nearest_radii
from common.model.sample import Sampling, generate_samples
from common.run.folder import Run, load_ddpm, load_images, load_lenet
from common.seeds import INITIAL, Seeds
from common.spectrum import jacobian, posterior

N, N_LOSS, N_ANCHORS, N_TANGENT = 1000, 200, 20, 100
T, REPEATS = 50, 3


def seconds_of(work):
    """The result of work(), and the median time of REPEATS calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return result, statistics.median(times)


def of_samples(run, constants, real):
    """{step or stream: seconds} of what needs N samples."""
    lenet, training = load_lenet(run.prmodel).cpu(), load_images(run.samples(INITIAL))
    chain = Sampling.of(SimpleNamespace(**constants, max_c=500))
    reference, known = (extract_mnist_features(d.images, lenet) for d in (real, training))
    real_statistics, radii = feature_statistics(reference), nearest_radii(reference)
    ddpm, partial = load_ddpm(run.model(0)).cpu(), Path(tempfile.mkdtemp()) / "part"
    how = {"seeds": Seeds(0, "benchmark"), "stage": "samples", "name": "samples"}
    how |= {"partial_path": partial, "save_every": 1e9}
    steps, found = {}, {}
    samples, steps["sampling"] = seconds_of(lambda: generate_samples(ddpm, N, 0, chain, **how))
    features, steps["their features"] = seconds_of(
        lambda: extract_mnist_features(samples.images, lenet)
    )
    streams = {
        "FID": lambda: calculate_frechet_distance(*feature_statistics(features), *real_statistics),
        "precision, recall, density, coverage": lambda: compute_prdc_slice(
            reference, features, real_radii=radii
        ),
        "entropy of samples": lambda: entropy(features),
        "distance to training set": lambda: distance_to_training(features, known),
    }
    for name, work in streams.items():
        found[name] = seconds_of(work)[1]
    return steps, found


def of_model(run, real, test):
    """{(stream, images): seconds} of what needs no sample, at one timestep."""
    ddpm = load_ddpm(run.model(0)).cpu().frozen()
    x_0, c = test.images[:N_LOSS].float() / 255, test.labels[:N_LOSS]
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full_like(c, round(T * ddpm.n_T / 500))
    x_t, sigma = ddpm.noised(x_0, noise, t), ddpm.sqrtmab[t[0]].item()
    directions = [
        posterior.principal_directions(real.images[real.labels == k], 20) for k in c[:N_TANGENT]
    ]

    @torch.inference_mode()
    def loss():
        return (ddpm.eps(x_t, t, c) - noise).square().mean()

    def spectra():
        for a in range(N_ANCHORS):
            J = jacobian.jacobian(ddpm.eps, x_t[a : a + 1], t[a : a + 1], c[a : a + 1])
            posterior.posterior_statistics(J, sigma, jacobian.eigenvalues(J))

    def tangent():
        for a in range(N_TANGENT):
            at = (part[a : a + 1] for part in (x_t, t, c, noise))
            posterior.tangent_statistics(ddpm.eps, *at, sigma, directions[a])

    return {
        ("denoising loss", N_LOSS): seconds_of(loss)[1],
        ("spectrum of J and of C", N_ANCHORS): seconds_of(spectra)[1],
        ("tangent variance, over-confidence", N_TANGENT): seconds_of(tangent)[1],
    }


def main(folder, path=None):
    torch.set_num_threads(1)
    run = Run(folder, 0)
    constants = storage.load_json(run.table("run", "json"), "main.py")["constants"]
    real, test = load_real(constants["dataset"]), load_real(constants["dataset"], train=False)
    steps, streams = of_samples(run, constants, real)
    print(f"{platform.machine()}, 1 of {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"n_feat {constants['n_feat']}, {constants['dataset']}, medians of {REPEATS}\n")
    sampling, features = steps.values()
    rows = [
        (name, f"{N:,} samples", sampling + features + seconds, features + seconds)
        for name, seconds in streams.items()
    ]
    for (name, n), seconds in of_model(run, real, test).items():
        rows.append((f"{name}, one t", f"{n} held out", seconds, seconds))
    head = ("stream", "images", "seconds", "with samples at hand")
    rows = [(name, images, *(f"{seconds:.3g}" for seconds in both)) for name, images, *both in rows]
    for row in (head, ["---"] * 4, *rows):
        print(f"| {' | '.join(row)} |")
    if path:
        storage.save_rows([dict(zip(head, row, strict=True)) for row in rows], path)
    texts = [f"{name} {seconds:.2f} s" for name, seconds in steps.items()]
    print(f"\nShared by all that need samples: {', '.join(texts)}.")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
