"""What a sampler, its steps and their noise do to one model's samples.

    python tests/benchmarks/sampling.py FullSynthetic/DDPM-MNIST/data/laptop 5 10 15 25 50 100 500

Samples a run's initial model with each sampler and number of steps, which are passes through the
network, and prints what becomes of the variance within the classes, FID and PRDC; 1,000 images
each, from the same noise. Then draws FID over the passes: fid_over_passes.png in the run's folder.
"""

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusers import DPMSolverMultistepScheduler
from matplotlib.ticker import FixedLocator, NullLocator

from common.data import load_real
from common.machine import storage
from common.metrics import evaluation
from common.model.sample import Sampling, generate_samples
from common.run import style
from common.run.folder import Run, load_ddpm, load_lenet
from common.seeds import INITIAL, Seeds

N, CLIPPED = 1000, ", clipped"


def solved(ddpm, eps, noise, sample_steps):
    """x_0 by DPM-Solver++ (2M) of Lu et al. 2022 (arXiv 2211.01095), in diffusers' words."""
    solver = DPMSolverMultistepScheduler(
        ddpm.n_T, trained_betas=(ddpm.sqrt_beta_t[1:] ** 2).cpu().numpy()
    )
    solver.set_timesteps(sample_steps)
    x_t = noise()
    for t in solver.timesteps:  # counted from 0, ours from 1
        x_t = solver.step(eps(x_t, int(t) + 1), t, x_t).prev_sample
    return x_t


@dataclass(frozen=True)
class Solver(Sampling):
    """What `Sampling` is to the samplers of the scripts."""

    def chain(self):
        return lambda ddpm, eps, noise: solved(ddpm, eps, noise, self.sample_steps)


def samplers(steps):
    """{name: Sampling} with so many steps."""
    found = {
        f"ddim, eta {eta:g}" + clip * CLIPPED: Sampling(N, "ddim", steps, eta, clip_x0=clip)
        for clip in (True, False)
        for eta in (0.0, 0.5, 1.0)
    }
    return found | {"DPM-Solver++ 2M": Solver(N, "ddim", steps)}


def variance(data):
    """The variance of pixels within a class, summed over pixels, mean over classes."""
    pixels = data.images.double().flatten(1) / 255
    return sum(pixels[data.labels == c].var(0).sum().item() for c in range(10)) / 10


def main(folder, steps):
    constants = storage.load_json(folder / "run_initial.json")["constants"]
    files, real = Run(folder, 0), load_real(constants["dataset"])
    lenet, ddpm = load_lenet(files.prmodel), load_ddpm(files.model(INITIAL))
    temporary, curves = Path(tempfile.mkdtemp()), {}
    against = evaluation.reference(real, lenet, N, temporary / "features.pth", {})
    jobs = [(name, n, sampling) for n in steps for name, sampling in samplers(n).items()]
    # In all n_T steps a timestep of the solver repeats, by which it divides; what is not clipped
    # tells nothing there that fewer steps do not.
    jobs = [job for job in jobs if job[1] < ddpm.n_T or job[0].endswith(CLIPPED)]
    jobs += [("ddpm", ddpm.n_T, Sampling(N))]
    print("| sampler | passes | variance / real | FID | precision | recall | class accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, n, sampling in jobs:
        with contextlib.redirect_stdout(None):  # progress
            data = generate_samples(
                ddpm,
                N,
                0,
                sampling,
                seeds=Seeds(0, "benchmark"),
                stage="samples",
                partial_path=temporary / "part",
                save_every=1e9,
                name=f"{name}, {n} steps",
            )
        found = evaluation.scores(data, lenet, against)
        curves.setdefault(name, []).append((n, found["fid"]))
        ratio = variance(data) / variance(real)
        print(
            f"| {name} | {n} | {ratio:.2f} | {found['fid']:.1f} | {found['precision']:.2f} | "
            f"{found['recall']:.2f} | {found['accuracy']:.2f} |",
            flush=True,
        )
    storage.save_figure(drawn(curves), folder / "fid_over_passes.png")


def drawn(curves):
    """A Figure of FID over passes from {sampler: [(passes, FID)]}."""
    figure, (axes,) = style.panels(1, "FID of 1,000 samples of one model", 2.6, width=style.TWO)
    kinds = [*dict.fromkeys(name.removesuffix(CLIPPED) for name in curves)]
    for name, points in curves.items():
        look = style.style(kinds.index(name.removesuffix(CLIPPED)))
        look["ls"] = "" if len(points) == 1 else "-" if name.endswith(CLIPPED) else "--"
        axes.plot(*zip(*points, strict=True), **look, label=name)
    axes.set(xscale="log", yscale="log", xlabel="passes through the network (log axis)")
    axes.set_ylabel("FID (log axis)")
    passes = sorted({n for points in curves.values() for n, _ in points})
    axes.set_xticks(passes, map(str, passes))
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_locator(FixedLocator([10, 15, 20, 30, 40, 50, 70, 100, 150, 200]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside right upper")
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
