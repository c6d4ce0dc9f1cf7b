"""What the number of denoising steps and their noise do to one model's samples.

    python tests/benchmarks/sampling.py FullSynthetic/DDPM-MNIST/data/laptop 25 50 100 500

Samples a run's initial model with each number of "ddim" steps and eta = 0, 0.5 and 1, x_0 clipped,
and prints what becomes of the variance within the classes, FID and PRDC. 1,000 images each.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.data import load_real
from common.machine import storage
from common.metrics import evaluation
from common.model.sample import Sampling, generate_samples
from common.run.folder import Run, load_ddpm, load_lenet
from common.seeds import INITIAL, Seeds

N = 1000
ETAS = 0.0, 0.5, 1.0


def variance(data):
    """The variance of pixels within a class, summed over pixels, mean over classes."""
    pixels = data.images.double().flatten(1) / 255
    return sum(pixels[data.labels == c].var(0).sum().item() for c in range(10)) / 10


def main(folder, steps):
    constants = storage.load_json(folder / "run_initial.json")["constants"]
    files, real = Run(folder, 0), load_real(constants["dataset"])
    lenet, ddpm = load_lenet(files.prmodel), load_ddpm(files.model(INITIAL))
    temporary = Path(tempfile.mkdtemp())
    against = evaluation.reference(real, lenet, N, temporary / "features.pth", {})
    print("| steps | eta | variance / real | FID | precision | recall | class accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n in steps:
        for eta in ETAS:
            data = generate_samples(
                ddpm,
                N,
                0,
                Sampling(N, "ddim", n, eta, clip_x0=True),
                seeds=Seeds(0, "benchmark"),
                stage="samples",
                partial_path=temporary / "part",
                save_every=1e9,
                name=f"{n} steps, eta {eta:g}",
            )
            found = evaluation.scores(data, lenet, against)
            ratio = variance(data) / variance(real)
            print(
                f"| {n} | {eta:g} | {ratio:.2f} | {found['fid']:.1f} | {found['precision']:.2f} | "
                f"{found['recall']:.2f} | {found['accuracy']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
