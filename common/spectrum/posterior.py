"""How uncertain the model is of the noise, and whether it knows: C = I - sigma_t (J + J^T) / 2.

For an ideal denoiser sigma_t^2 C / alphabar_t = Cov[x_0 | x_t] (`spectrum`), and as
eps = (x_t - sqrt(alphabar_t) x_0) / sigma_t, C = Cov[eps | x_t]: eigenvalue 1 in directions in
which x_0 is free, 0 where x_t determines it. Its few large eigenvalues, and the few small singular
values of sigma_t J, belong to directions along the data; all others are of directions off them.

J is what `jacobian.jacobian` returns; sigma is sigma_t, a number or (B,). All results are NumPy
arrays of float64.
"""

import numpy as np
import torch

from common.machine.device import full_precision
from common.spectrum import jacobian

# What `posterior_statistics` computes, with the formula that labels an axis.
STATISTICS = {
    "log_posterior_20": "log posterior variance, mean log of the 20 largest λ(C)",
    "free_directions": "free directions, number of λ(C) > 1/2",
    "log_singular_20": "mean log of the 20 smallest σ·s(J)",
    "log_singular_60": "mean log of the 60 smallest σ·s(J)",
}
N_DIRECTIONS = (10, 20)  # principal directions that the tangent statistics sum over
TANGENT = tuple(f"tangent_{name}_{k}" for name in ("variance", "residual") for k in N_DIRECTIONS)
# All that is watched of a spectrum, with the formula that labels an axis.
LABELS = {
    **jacobian.STATISTICS,
    **STATISTICS,
    **{f"tangent_variance_{k}": f"log tangent variance, Σ vᵀCv of {k}" for k in N_DIRECTIONS},
}
FLOOR = 1e-4  # what variances and singular values below it count as, before a logarithm


def posterior_eigenvalues(J, sigma):
    """All eigenvalues of C, (B, D) descending, for J (B, D, D). ValueError unless J is finite."""
    J = jacobian.in_float64(J)
    return 1 - _column(sigma) * torch.linalg.eigvalsh((J + J.mT) / 2).numpy()


def posterior_statistics(J, sigma, eigenvalues=None):
    """The numbers of STATISTICS, {name: (B,)}, for J (B, D, D).

    Of C: the mean logarithm of its 20 largest eigenvalues, and how many are above 1/2. Of
    sigma J: the mean logarithm of its 20 and of its 60 smallest singular values; eigenvalues (B, D)
    are those of J^T J, where known, else computed. Values below FLOOR count as FLOOR; where D is
    less, all are taken. Raises ValueError unless J is finite.
    """
    of_C = posterior_eigenvalues(J, sigma)
    if eigenvalues is None:
        eigenvalues = jacobian.eigenvalues(J)
    singular = _column(sigma) * np.sqrt(eigenvalues)
    return {
        "log_posterior_20": _log(of_C[:, :20]).mean(axis=1),
        "free_directions": (of_C > 0.5).sum(axis=1).astype(np.float64),
        "log_singular_20": _log(singular[:, -20:]).mean(axis=1),
        "log_singular_60": _log(singular[:, -60:]).mean(axis=1),
    }


def principal_directions(images, k):
    """The k first principal directions of images (N, ...), float64 (k, D), orthonormal.

    The eigenvectors of the pixels' covariance, largest variance first, each with the sign that
    makes its largest component positive. Raises ValueError when the images vary in fewer than k.
    """
    x = torch.as_tensor(images).double().cpu().flatten(1)
    x = x - x.mean(dim=0)
    variances, vectors = torch.linalg.eigh(x.T @ x)
    rank = int((variances > len(variances) * np.finfo(np.float64).eps * variances[-1]).sum())
    if not 0 < k <= rank:
        raise ValueError(f"{len(x)} images that vary in {rank} directions do not have {k} of them")
    vectors = vectors.T.flip(0)[:k]
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * largest.sign()


def tangent_quadratics(eps, x_t, t, c, directions, chunk=16):
    """v_k^T J v_k at each anchor, (B, K), for unit directions v_k (K, D) or (B, K, D).

    x_t, t, c and errors as for `jacobian.vector_jacobian_products`: K backward passes an anchor in
    place of the D of J.
    """
    v = directions.to(x_t).expand(len(x_t), -1, -1)
    products = jacobian.vector_jacobian_products(eps, x_t, t, c, v, chunk)
    return (products.double() * v.double()).sum(dim=2).cpu().numpy()


def tangent_statistics(eps, x_t, t, c, noise, sigma, directions, chunk=16):
    """Of the first 10 and 20 directions of the data at each anchor, {name: (B,)}.

    tangent_variance_10, _20: sum_k v_k^T C v_k, the error that the model expects in its prediction
    of the noise along them; tangent_residual_10, _20: sum_k (v_k . (eps_hat - eps))^2, the error
    that it makes. `noise` (B, ...) is the eps in x_t; v_k (K, D) or (B, K, D) with K of 20 or
    more are `principal_directions` of real images of the anchor's class. An ideal denoiser makes
    the error that it expects. Raises ValueError as `tangent_quadratics`, and for K below 20.
    """
    if directions.shape[-2] < max(N_DIRECTIONS):
        raise ValueError(f"{directions.shape[-2]} directions: {max(N_DIRECTIONS)} are needed")
    quadratics = tangent_quadratics(eps, x_t, t, c, directions, chunk)
    variances = 1 - _column(sigma) * quadratics
    with torch.no_grad(), full_precision():
        error = (eps(x_t, t, c) - noise).double().flatten(1)
    v = directions.to(error).expand(len(x_t), -1, -1)
    residuals = torch.einsum("bkd,bd->bk", v, error).square().cpu().numpy()
    return {
        f"tangent_{name}_{k}": values[:, :k].sum(axis=1)
        for name, values in (("variance", variances), ("residual", residuals))
        for k in N_DIRECTIONS
    }


def log_tangent_variance(variance):
    """The logarithm of a tangent_variance (...), of at least FLOOR."""
    return _log(variance)


def overconfidence(residual, variance):
    """log(error made / error expected), (...), of tangent_residual and tangent_variance (..., A).

    0 where the model knows how uncertain it is, above where it errs more than it expects. Sums over
    the A anchors and noises come before the logarithm: a single residual is nearly chi-square with
    few degrees of freedom, whose mean logarithm is far below the logarithm of its mean.
    """
    return np.log(np.mean(residual, axis=-1)) - _log(np.mean(variance, axis=-1))


def generation_streams(eps, x_0, c, noise, times, alphabar, directions, chunk=16):
    """All of one model that this project computes from J, {name: (T, A)}, at A anchors, T times.

    eps(x_t, t, c) is the model; x_0 (A, ...) the anchors with classes c (A,) int64, noise
    (T, A, ...); alphabar (T,) those of the times (T,), whole numbers as eps knows them; directions
    (A, K, D) `principal_directions` of real images of each anchor's class. The names are those of
    `jacobian.STATISTICS`, STATISTICS and `tangent_statistics`. Several noises per anchor: repeat
    the anchor. Raises ValueError as the functions that it calls.
    """
    rows = []
    for t, ab, noise_t in zip(times, map(float, alphabar), noise, strict=True):
        x_t, sigma = ab**0.5 * x_0 + (1 - ab) ** 0.5 * noise_t, (1 - ab) ** 0.5
        for a in range(len(x_0)):
            only = slice(a, a + 1)
            at = x_t[only], torch.full_like(c[only], int(t)), c[only]
            J = jacobian.jacobian(eps, *at, chunk)
            eigenvalues = jacobian.eigenvalues(J)
            of_J = eigenvalues, jacobian.trace(J), jacobian.asymmetry(J)
            tangent = tangent_statistics(eps, *at, noise_t[only], sigma, directions[only], chunk)
            rows.append(
                jacobian.spectrum_statistics(*of_J, sigma, ab)
                | posterior_statistics(J, sigma, eigenvalues)
                | tangent
            )
    return {name: np.reshape([row[name] for row in rows], noise.shape[:2]) for name in rows[0]}


def _column(sigma):
    """sigma, a number or (B,), as what multiplies (B, D)."""
    return np.asarray(sigma, dtype=np.float64).reshape(-1, 1)


def _log(values):
    return np.log(np.maximum(values, FLOOR))
