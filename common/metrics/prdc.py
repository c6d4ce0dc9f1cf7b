"""Precision, recall, density and coverage (Naeem et al. 2020, arXiv 2002.09797), in blocks.

Memory grows with block * N, never with N^2: 60,000 real images need well under 1 GB.
"""

import torch

from common.metrics import PRDC_K
from common.metrics.neighbours import checked

BLOCK = 125  # rows of a distance matrix in memory at a time


def nearest_radii(features, nearest_k=PRDC_K, block=BLOCK):
    """Distance float64 (N,) from each of the features (N, D) to its k-th nearest other one."""
    features = _features(features, nearest_k)
    radii = features.new_empty(len(features))
    distances = _squared_distances(features, features, block)
    for part, squared in zip(radii.split(block), distances, strict=True):
        # The nearest of all is the point itself.
        torch.sqrt(squared.topk(nearest_k + 1, dim=1, largest=False).values[:, -1], out=part)
    return radii


def compute_prdc_slice(
    real_features, fake_features, nearest_k=PRDC_K, real_radii=None, block=BLOCK
):
    """{"precision", "recall", "density", "coverage"} of fake (M, D) against real features (N, D).

    real_radii: `nearest_radii(real_features)`, which a loop computes once and passes to every
    generation. Equations 2 to 5 of Naeem et al. ValueError unless N and M are above nearest_k.
    """
    real, fake = _features(real_features, nearest_k), _features(fake_features, nearest_k)
    if real_radii is None:
        real_radii = nearest_radii(real, nearest_k, block)
    real_radii = torch.as_tensor(real_radii).double()
    fake_radii = nearest_radii(fake, nearest_k, block)

    within_real = torch.zeros(len(fake), dtype=torch.int64)  # real balls that hold each fake
    recalled = covered = start = 0
    for squared in _squared_distances(real, fake, block):  # (block, M)
        distances = squared.sqrt_()  # not radii squared: that would move points off the rims
        inside = distances < real_radii[start : start + len(distances), None]
        within_real += inside.sum(dim=0)
        covered += int(inside.any(dim=1).sum())
        recalled += int((distances < fake_radii).any(dim=1).sum())
        start += len(distances)
    return {
        "precision": (within_real > 0).double().mean().item(),
        "recall": recalled / len(real),
        "density": within_real.double().mean().item() / nearest_k,
        "coverage": covered / len(real),
    }


def _features(features, nearest_k):
    return torch.from_numpy(checked(features, nearest_k + 1))


def _squared_distances(a, b, block):
    """Blocks of rows of the matrix of squared Euclidean distances between a (N, D), b (M, D).

    Each takes the memory of the one before: new memory for each can add up to the whole matrix,
    when the small results that the caller keeps lie between one block and the next.
    """
    b_norms = b.square().sum(dim=1)
    memory = b.new_empty(min(block, len(a)), len(b))
    for rows in a.split(block):
        squared = torch.addmm(b_norms[None, :], rows, b.T, alpha=-2, out=memory[: len(rows)])
        yield squared.add_(rows.square().sum(dim=1, keepdim=True)).clamp_(min=0)
