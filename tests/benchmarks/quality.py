"""What a CPU evening buys: FID and recall of an initial model over the seconds that it took.

    python tests/benchmarks/quality.py jacobian/figures/fid_over_seconds.png 0

After the figure's path: seeds. Runs `initialmain.py --recipe laptop` with networks and trainings of
several sizes, and with the published constants, in one process of one thread per core; the seconds
are those of the script, from its start to 1,000 samples. Then, alone, what the textbook code needs
for the published constants, from some of its training steps and network passes.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import joblib
import textbook_speed as textbook
import torch

from common.data import batches, load_real
from common.loop import scenarios
from common.machine import storage
from common.metrics import evaluation
from common.model.sample import balanced_labels
from common.run import style
from common.run.folder import Run, load_ddpm, load_images, load_lenet
from common.seeds import INITIAL

SCRIPT = Path(__file__).resolve().parents[2] / "FullSynthetic" / "DDPM-MNIST" / "initialmain.py"
N, WIDTHS, STEPS, GOOD = 1000, (8, 16, 32), (250, 500, 1000, 2000), 20
PUBLISHED = f"--dataset digits --n_feat 16 --N_real {N} --N_with_w {N} --n_epoch"
TICKS = (30, 60, 120, 240, 480)
PUBLISHED_EPOCHS, BATCH, N_T = (320, 40), 128, 500


def jobs(seeds):
    """(what, seed, words of initialmain.py), the long ones first."""
    for n in PUBLISHED_EPOCHS:
        yield f"published, n_feat 16, {n} epochs", seeds[0], f"{PUBLISHED} {n}"
    for n_feat in reversed(WIDTHS):
        for n in reversed(STEPS):
            for seed in seeds:
                words = f"--recipe laptop --n_feat {n_feat} --n_step {n}"
                yield f"laptop, n_feat {n_feat}, {n} steps", seed, words


def initialmain(folder, words):
    command = [sys.executable, SCRIPT, *words.split(), "--save_dirs", folder]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=one_thread)


def timed(base, what, seed, words):
    """What it was, its seconds and its samples."""
    folder = Path(tempfile.mkdtemp(dir=base))
    scenarios.share(["prmodel.pth"], base, folder)
    start = time.perf_counter()
    initialmain(folder, f"{words} --seed {seed}")
    seconds = time.perf_counter() - start
    return what, seed, seconds, load_images(Run(folder, 0).samples(INITIAL))


def of_textbook(ddpm, data):
    """Seconds of a training step of the textbook's code, and of a pass for N samples at w = 0, on
    the CPU."""
    ddpm = ddpm.cpu()
    rows = [row for _ in range(2) for row in batches(data, BATCH, torch.Generator())]
    start = time.perf_counter()
    textbook.train(ddpm, rows, 1e-4)
    step = (time.perf_counter() - start) / len(rows)
    ddpm.eval().n_T = 5
    start = time.perf_counter()
    for _ in range(N // 100):
        textbook.sample(ddpm, balanced_labels(100), 0, lambda: torch.randn(100, 1, 28, 28))
    return step, (time.perf_counter() - start) / ddpm.n_T


def drawn(rows):
    """A Figure of FID and recall over seconds from [(what, seed, seconds, scores)]."""
    title = "1,000 samples of the initial model, by the laptop recipe with 250 to 2,000 steps"
    figure, panels = style.panels(2, title, 2.4)
    for axes, name in zip(panels, ("fid", "recall"), strict=True):
        for i, n_feat in enumerate(WIDTHS):
            kind = f"laptop, n_feat {n_feat},"
            points = [(s, found[name]) for what, _, s, found in rows if what.startswith(kind)]
            axes.plot(*zip(*sorted(points), strict=True), **style.style(i), label=kind[8:-1])
        axes.set(xscale="log", xlabel="seconds of one core (log axis)")
        axes.set_xticks(TICKS, map(str, TICKS))
        axes.xaxis.minorticks_off()
    panels[0].set(yscale="log", ylabel="FID (log axis)")
    panels[0].set_yticks((10, 20, 50, 100, 200, 500), map(str, (10, 20, 50, 100, 200, 500)))
    panels[1].set(ylim=(0, 1), ylabel="recall")
    style.level(panels[0], GOOD, f"FID {GOOD}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def main(path, seeds):
    torch.set_num_threads(1)
    base, real, rows = Path(tempfile.mkdtemp()), load_real("digits"), []
    initialmain(base, "--recipe laptop --n_step 1 --N_with_w 10")  # for its feature network
    lenet = load_lenet(Run(base, 0).prmodel)
    against = evaluation.reference(real, lenet, N, base / "features.pth", {})
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| recipe | seed | seconds | FID | precision | recall | class accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    side_by_side = joblib.Parallel(os.cpu_count(), backend="threading", return_as="generator")
    for what, seed, seconds, samples in side_by_side(
        joblib.delayed(timed)(base, *job) for job in jobs(seeds)
    ):
        found = evaluation.scores(samples, lenet, against)
        rows.append((what, seed, seconds, found))
        texts = (f"{found[name]:.2f}" for name in ("precision", "recall", "accuracy"))
        cells = what, seed, f"{seconds:.0f}", f"{found['fid']:.1f}", *texts
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    storage.save_figure(drawn(rows), path)

    step, denoising = of_textbook(load_ddpm(Run(base, 0).model(INITIAL)), real.subset(slice(N)))
    for n in PUBLISHED_EPOCHS:
        seconds = n * -(-N // BATCH) * step + N_T * denoising
        print(f"Published constants, {n} epochs, textbook code: {seconds:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
