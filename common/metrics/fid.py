"""Frechet distance between Gaussians fitted to features (FID; Heusel et al. 2017, 1706.08500)."""

import numpy as np

BLOCK = 4096  # features at a time in double precision, so that many need no more memory


def feature_statistics(features):
    """Mean (D,) and unbiased covariance (D, D), float64, of features (N, D) with N >= 2."""
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}, not (N, D) with N of 2 or more")
    mean = features.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((features.shape[1], features.shape[1]))
    for first in range(0, len(features), BLOCK):
        centred = features[first : first + BLOCK] - mean  # float64
        scatter += centred.T @ centred
    return mean, scatter / (len(features) - 1)


def calculate_frechet_distance(mu1, sigma1, mu2, sigma2):
    """||mu1 - mu2||^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2)), Dowson & Landau 1982.

    Means (D,), covariances (D, D), symmetric positive semi-definite, singular ones included.
    The last trace is the sum of the singular values of S1^(1/2) S2^(1/2), which, unlike the square
    root of a product, keeps its accuracy where eigenvalues are zero. ValueError for wrong shapes
    and values that are not finite.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(a, dtype=np.float64) for a in (mu1, sigma1, mu2, sigma2))
    d = len(mu1)
    if mu2.shape != (d,) or sigma1.shape != (d, d) or sigma2.shape != (d, d):
        raise ValueError(f"shapes {mu1.shape}, {sigma1.shape}, {mu2.shape}, {sigma2.shape} differ")
    if not all(np.isfinite(a).all() for a in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("means and covariances must be finite")
    product = _symmetric_sqrt(sigma1) @ _symmetric_sqrt(sigma2)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * overlap)


def _symmetric_sqrt(sigma):
    values, vectors = np.linalg.eigh(sigma)
    noise = len(values) * np.finfo(np.float64).eps * values.max()
    return (vectors * np.sqrt(np.where(values > noise, values, 0))) @ vectors.T
