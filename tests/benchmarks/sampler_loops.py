"""What the sampler does to a whole loop: the same initial model, other denoising steps.

    python tests/benchmarks/sampler_loops.py FullSynthetic/DDPM-MNIST/data/laptop 25 1 2
    python tests/benchmarks/sampler_loops.py FullSynthetic/DDPM-MNIST/data/laptop 500 1 2

After the folder of a finished run: "ddim" steps, eta and generations. Every generation trains on
the samples of the one before, with the run's own constants and seed, and its FID, PRDC and class
accuracy are those of the samples that the next one trains on, which halves the sampling.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sampling import variance

from common.data import load_real
from common.loop import stages
from common.machine import storage
from common.metrics import evaluation
from common.run.folder import Run, generation_name, load_images, load_lenet
from common.seeds import INITIAL, Seeds


def main(folder, sample_steps, eta, n_generations):
    made = storage.load_json(folder / "run_w0.json")["constants"]
    choice = {"sampler": "ddim", "sample_steps": sample_steps, "eta": eta, "clip_x0": True}
    constants = SimpleNamespace(**{**made, **choice}, max_c=1000, save_every=1e9)
    files, real = Run(folder, 0), load_real(constants.dataset)
    lenet, temporary = load_lenet(files.prmodel), Path(tempfile.mkdtemp())
    against = evaluation.reference(real, lenet, constants.N_ref, temporary / "features.pth", {})
    copies = Run(temporary, 0)
    storage.copy(files.model(INITIAL), copies.model(INITIAL))
    print("| generation | FID | precision | recall | class accuracy | variance / real |")
    print("| --- | --- | --- | --- | --- | --- |")
    for generation in (INITIAL, *range(n_generations)):
        seeds = Seeds(constants.seed, "sampler loops", 0, generation)
        if generation != INITIAL:
            training = load_images(copies.samples(generation - 1))
            stages.train(copies, generation, training, constants, seeds, "")
        paths = copies.samples(generation)
        stages.sample(copies, generation, paths, constants.N_next, 0, "samples", constants, seeds)
        data = load_images(paths)
        found = evaluation.scores(data, lenet, against)
        print(
            f"| {generation_name(generation)} | {found['fid']:.1f} | {found['precision']:.2f} | "
            f"{found['recall']:.2f} | {found['accuracy']:.2f} | "
            f"{variance(data) / variance(real):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
