"""FID of 50 DDIM steps beside that of all 500 DDPM steps, from one network, for three seeds.

    python tests/benchmarks/ddim.py

Trains a ContextUnet (n_feat = 8, n_T = 500) and the feature network on real MNIST, then samples
2,000 images per sampler and seed. Half an hour on a CPU.
"""

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.data import load_real
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import extract_mnist_features, train_lenet
from common.model.ddpm import DDPM
from common.model.sample import Sampling, generate_samples
from common.model.train import Training, train_ddpm
from common.model.unet import ContextUnet
from common.seeds import Seeds

N_FEAT, N_T = 8, 500
N_EPOCH = 4  # of 60,000 images
N = 2000
STEPS = 50
SEEDS = 1, 2, 3


def main():
    real = load_real("mnist")
    seeds = Seeds(0, "benchmark")
    folder = Path(tempfile.mkdtemp())
    lenet = train_lenet(real, Seeds(0, "feature network"))
    reference = feature_statistics(extract_mnist_features(real.images, lenet))
    ddpm = seeds.initialised(lambda: DDPM(ContextUnet(1, N_FEAT), (1e-4, 0.02), N_T))
    losses = train_ddpm(
        ddpm,
        real,
        Training(N_EPOCH, batch_size=128, lrate=1e-3),
        seeds=seeds,
        state_path=folder / "state",
        losses_path=folder / "losses.csv",
        save_every=1e9,
        name="training",
    )
    print(
        f"n_feat {N_FEAT}, {N_EPOCH} epochs of {len(real.labels):,} images, loss {losses[-1]:.4f}",
        flush=True,
    )
    fids = {}
    for sampler in ("ddim", "ddpm"):
        for seed in SEEDS:
            data = generate_samples(
                ddpm,
                N,
                0,
                Sampling(N, sampler, STEPS),
                seeds=Seeds(seed, "benchmark"),
                stage="samples",
                partial_path=folder / "part",
                save_every=1e9,
                name=f"{sampler}, seed {seed}",
            )
            fake = feature_statistics(extract_mnist_features(data.images, lenet))
            fids.setdefault(sampler, []).append(calculate_frechet_distance(*fake, *reference))
            print(f"{sampler}, seed {seed}: FID {fids[sampler][-1]:.2f}", flush=True)
    ratio = statistics.mean(fids["ddim"]) / statistics.mean(fids["ddpm"])
    print(f"{STEPS} DDIM steps / {N_T} DDPM steps: FID ratio {ratio:.3f} (target: at most 1.15)")


if __name__ == "__main__":
    main()
