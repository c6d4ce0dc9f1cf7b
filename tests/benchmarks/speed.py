"""Times every stage of a generation against textbook code in the same run.

    python tests/benchmarks/speed.py               all rows of the table in common/model/README.md
    python tests/benchmarks/speed.py fid loader    some of them

Each side has a process, ours set up as the scripts do. Rounds are interleaved, so that other work
on the machine hits both alike: median times, and the median, smallest and largest ratio of a
round's two. What both compute must agree. Peak memory is that of a process that does nothing else.
Lines below the table say what bounds the ratios.
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import textbook_speed as textbook
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.data import LabelledImages, batches, load_real, quantised
from common.machine import device
from common.machine.errors import UserError
from common.metrics import PRDC_K
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import LeNet, extract_mnist_features
from common.metrics.prdc import compute_prdc_slice, nearest_radii
from common.model.compiled import ENOUGH_PASSES, compiled_predicted
from common.model.ddpm import DDPM
from common.model.sample import (
    CPU_ROWS,
    Sampling,
    balanced_labels,
    ddpm_chain,
    fast_eps,
    generate_samples,
)
from common.model.train import Training, train_ddpm
from common.model.unet import ContextUnet
from common.seeds import Seeds

THREADS = 2
SEEDS = Seeds(0, "benchmark")


class Row(NamedTuple):
    """One row: two functions that do the same work, how often, and the ratio that is aimed at."""

    work: str
    textbook: callable
    ours: callable
    agree: callable
    target: float
    repeats: int = 5


def model(n_feat, n_T):
    """A DDPM with random weights and statistics that are not the identity, in eval mode."""
    ddpm = SEEDS.initialised(lambda: DDPM(ContextUnet(1, n_feat), (1e-4, min(0.5, 10 / n_T)), n_T))
    generator = torch.Generator().manual_seed(1)
    for module in ddpm.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return ddpm.eval()


def noise_of(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(n, 1, 28, 28, generator=generator)


def sampling(n_feat, w, target, compiled=False):
    n, n_T = 100, 5 if n_feat < 128 else 2
    ddpm, c = model(n_feat, n_T), balanced_labels(n)
    frozen = ddpm.frozen()
    with torch.inference_mode():
        n_passes = ENOUGH_PASSES if compiled else 0
        predicted = compiled_predicted(frozen.nn_model, CPU_ROWS, n_passes)

    @torch.inference_mode()
    def ours():
        return ddpm_chain(frozen, fast_eps(frozen, c, w, predicted), noise_of(n))

    return Row(
        f"{n_T} denoising steps of {n} images, w = {w}, n_feat {n_feat}"
        + (", compiled" if compiled else ""),
        lambda: textbook.sample(ddpm, c, w, noise_of(n)),
        ours,
        lambda a, b: (a - b).abs().max() < 1e-4 * max(1, a.abs().max()),
        target,
    )


def ddim():
    ddpm, folder = model(32, 500), Path(tempfile.mkdtemp())
    options = {"seeds": SEEDS, "stage": "samples", "save_every": 1e9, "name": "25"}
    options["partial_path"] = folder / "part"
    return Row(
        "25 images with 50 DDIM steps; textbook: 500 DDPM steps, as fast as ours",
        lambda: generate_samples(ddpm, 25, 0, Sampling(25), **options),
        lambda: generate_samples(ddpm, 25, 0, Sampling(25, "ddim", 50), **options),
        lambda a, b: a.images.shape == b.images.shape,
        9,
    )


def loader():
    data, root = load_real("mnist"), os.environ.get("MNIST_ROOT", "data")
    loaded = textbook.loader(root)
    return Row(
        "a pass over 60,000 images in batches of 128",
        lambda: sum(len(c) for _, c in loaded),
        lambda: sum(len(c) for _, c in batches(data, 128, torch.Generator().manual_seed(0))),
        lambda a, b: a == b == 60_000,
        30,
    )


def trained(ddpm, data, n_epoch=1):
    with tempfile.TemporaryDirectory() as folder:
        return train_ddpm(
            ddpm,
            data,
            Training(n_epoch, batch_size=128, lrate=1e-4),
            seeds=SEEDS,
            state_path=Path(folder) / "state",
            losses_path=Path(folder) / "losses.csv",
            save_every=1e9,
            name="training",
        )


def training():
    data, (plain, ours) = images(1024), (model(32, 500) for _ in range(2))
    rows = list(batches(data, 128, torch.Generator().manual_seed(0)))
    return Row(
        "8 training steps of 128 images, n_feat 32",
        lambda: textbook.train(plain, rows, 1e-4),
        lambda: trained(ours, data),
        lambda a, b: abs(np.mean(a) / np.mean(b) - 1) < 0.2,  # other random numbers
        1.1,
        7,
    )


def features(n, seed):
    """Correlated, non-negative features (n, 84), as LeNet's are."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((84, 84)) / 9
    return np.maximum(generator.standard_normal((n, 84)) @ mixing + 0.1 * seed, 0)


def prdc(n, again):
    real, fake = features(n, 0), features(1000, 1)
    radii = nearest_radii(real) if again else None
    return Row(
        f"PRDC, {n:,} real x 1,000 synthetic x 84, "
        + ("from the second generation on" if again else "first time"),
        lambda: textbook.prdc(real, fake, PRDC_K),
        lambda: compute_prdc_slice(real, fake, real_radii=radii),
        lambda a, b: all(abs(a[name] - b[name]) < 1e-12 for name in b),
        30 if again else 3,
    )


def all_real_images():
    """How long ours takes where the textbook's matrix does not fit into memory."""
    given = [sys.executable, __file__, "--prdc_60000"]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    first, again, memory = done.stdout.split()
    return (
        f"PRDC with 60,000 real images, whose distance matrix would need 29 GB: radii {first} s "
        f"once, then {again} s per generation, peak memory {memory} MB"
    )


def prdc_of_all():
    real, fake = features(60_000, 0), features(1000, 1)
    start = time.perf_counter()
    radii = nearest_radii(real)
    first = time.perf_counter() - start
    compute_prdc_slice(real, fake, real_radii=radii)
    print(f"{first:.0f} {time.perf_counter() - start - first:.1f}")


@torch.inference_mode()
def where_sampling_goes():
    """The share of convolutions in a pass of the frozen network, and how fast they are."""
    network, passes = model(32, 500).frozen().nn_model, 20
    x = torch.randn(CPU_ROWS, 1, 28, 28)
    embeddings = network.context(balanced_labels(CPU_ROWS), torch.zeros(CPU_ROWS))
    given = x, embeddings, network.time(torch.ones(1))
    with FlopCounterMode(display=False) as counter:
        network.predicted(*given)
    with torch.profiler.profile() as profile:
        for _ in range(passes):
            network.predicted(*given)
    microseconds = {each.key: each.self_cpu_time_total for each in profile.key_averages()}
    inside = sum(each for key, each in microseconds.items() if "convolution" in key)
    speed = passes * counter.get_total_flops() / inside / 1e3
    matrix, seconds = torch.randn(1536, 1536), []
    for _ in range(10):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    product = 2 * len(matrix) ** 3 / statistics.median(seconds) / 1e9
    return (
        f"Sampling, n_feat 32: {inside / sum(microseconds.values()):.0%} of a pass is convolutions "
        f"at {speed:.0f} GFLOP/s; a product of two matrices of 1536 x 1536 has {product:.0f}"
    )


def fid():
    real, fake = features(60_000, 0), features(60_000, 1)

    def ours():
        return calculate_frechet_distance(*feature_statistics(real), *feature_statistics(fake))

    return Row(
        "FID from features, 60,000 x 84",
        lambda: textbook.fid(real, fake),
        ours,
        lambda a, b: abs(a - b) < 1e-6 * a,
        1,
    )


def images(n):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)
    return LabelledImages(torch.from_numpy(pixels), torch.arange(n) % 10)


def generation():
    """Training, sampling and evaluation, each as in its own row; 5,000 real images. As in every
    generation after the first, what is of the real images alone is there with ours."""
    data, n, real = images(512), 250, images(5000)
    lenet = SEEDS.initialised(LeNet).eval()
    real_features = extract_mnist_features(real.images, lenet)
    radii, statistics_ = nearest_radii(real_features), feature_statistics(real_features)

    @torch.no_grad()
    def embedded(x):
        return torch.cat([lenet.embed(part) for part in x.split(100)]).numpy()

    def plain():
        ddpm = model(32, 20)
        textbook.train(ddpm, batches(data, 128, torch.Generator().manual_seed(0)), 1e-4)
        ddpm.eval()
        x = [
            textbook.sample(ddpm, labels, 0, noise_of(len(labels), i))
            for i, labels in enumerate(balanced_labels(n).split(100))
        ]
        fake = embedded(quantised(torch.cat(x)).float() / 255)
        reference = embedded(real.images.float() / 255)
        return textbook.fid(reference, fake), textbook.prdc(reference, fake, PRDC_K)

    def ours():
        ddpm = model(32, 20)
        trained(ddpm, data)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            options = {"seeds": SEEDS, "stage": "samples", "save_every": 1e9, "name": "samples"}
            made = generate_samples(ddpm, n, 0, Sampling(500), partial_path=part, **options)
        fake = extract_mnist_features(made.images, lenet)
        return (
            calculate_frechet_distance(*feature_statistics(fake), *statistics_),
            compute_prdc_slice(real_features, fake, real_radii=radii),
        )

    return Row(
        "a later generation: train on 512, sample 250 in 20 steps, evaluate; n_feat 32",
        plain,
        ours,
        lambda a, b: abs(a[0] / b[0] - 1) < 0.5,  # other random numbers
        3,
    )


ROWS = {
    "sampling-32": lambda: sampling(32, 0, 3.5),
    "sampling-128": lambda: sampling(128, 0, 3.5),
    "compiled-32": lambda: sampling(32, 0, 3.5, compiled=True),
    "guided-32": lambda: sampling(32, 1, 2),
    "guided-128": lambda: sampling(128, 1, 2),
    "ddim": ddim,
    "loader": loader,
    "training": training,
    "prdc-first": lambda: prdc(10_000, False),
    "prdc-again": lambda: prdc(10_000, True),
    "fid": fid,
    "generation": generation,
}


row_of = functools.cache(lambda name: ROWS[name]())


def set_up(side):
    torch.set_num_threads(THREADS)
    if side == "ours":
        device.set_up(deterministic=False)


def timed(name, side):
    """The seconds that a side of a row takes, and its result."""
    work = getattr(row_of(name), side)
    time.sleep(0.2)  # until threads that wait busily for more of the last work give up
    start = time.perf_counter()
    with contextlib.redirect_stdout(None):  # progress
        result = work()
    return time.perf_counter() - start, result


def measured(name, repeats, run=timed):
    """The seconds of both sides of a row in each round. run: who calls `timed`, and where."""
    if repeats > 1:  # a first call is slower
        run(name, "textbook"), run(name, "ours")
    rounds = [(run(name, "textbook"), run(name, "ours")) for _ in range(repeats)]
    (_, plain), (_, ours) = rounds[-1]
    assert row_of(name).agree(plain, ours), f"{name}: textbook and ours disagree: {plain}, {ours}"
    return [[seconds for seconds, _ in side] for side in zip(*rounds, strict=True)]


@contextlib.contextmanager
def processes():
    """`timed` in a process for each side."""
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pools = {
            side: stack.enter_context(ProcessPoolExecutor(1, context, set_up, [side]))
            for side in ("textbook", "ours")
        }
        yield lambda name, side: pools[side].submit(timed, name, side).result()


def peak(name, side):
    """The peak memory, in MB, of a process that does one side of a row once."""
    words = [sys.executable, __file__, name, "--side", side]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def peak_of_this_process():
    """In MB, as text; a dash where the system does not tell."""
    status = Path("/proc/self/status")  # getrusage would count the parent's memory too
    if not status.exists():
        return "–"
    lines = status.read_text(encoding="utf-8").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return f"{int(kilobytes) // 1024:,}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="all when none is named")
    parser.add_argument("--side", choices=["textbook", "ours"], help="once, for its peak memory")
    parser.add_argument("--prdc_60000", action="store_true", help="the line below the table")
    given = parser.parse_args()
    set_up(given.side or "ours")
    if given.prdc_60000:
        prdc_of_all()
        print(peak_of_this_process())
        return
    if given.side:
        getattr(row_of(given.rows[0]), given.side)()
        print(peak_of_this_process())
        return
    print(f"{platform.machine()}, {THREADS} of {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| work | textbook | ours | ratio | target | peak memory, textbook / ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    notes = []
    with processes() as run:
        for name in given.rows or ROWS:
            try:
                row = row_of(name)
            except UserError as error:
                notes.append(f"Left out: {name}: {error}")
                continue
            plain, ours = measured(name, row.repeats, run)
            ratios = sorted(a / b for a, b in zip(plain, ours, strict=True))
            plain, ours, ratio = (statistics.median(each) for each in (plain, ours, ratios))
            memory = " / ".join(peak(name, side) for side in ("textbook", "ours"))
            print(
                f"| {row.work} | {plain:.3g} s | {ours:.3g} s | {ratio:.2f} ({ratios[0]:.2f} to "
                f"{ratios[-1]:.2f}) | {row.target} | {memory} MB |",
                flush=True,
            )
    if not given.rows:
        notes += [all_real_images(), where_sampling_goes()]
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
