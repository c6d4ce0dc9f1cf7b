"""What nearest neighbours say of samples: their entropy, and how near they lie to training data.

Both fall when a model collapses onto, or memorises, what it was trained on (Shi et al. 2025,
"A Closer Look at Model Collapse", arXiv 2509.16499). They work in any space of features.
"""

import numpy as np
from scipy.special import digamma, gammaln
from sklearn.neighbors import NearestNeighbors


def entropy(features):
    """Kozachenko & Leonenko's estimate, in nats, of the differential entropy of features (N, d).

    d/N sum_i log r_i + log V_d + psi(N) - psi(1): r_i is the distance from point i to the nearest
    other one, V_d the volume of the unit ball (Kraskov, Stögbauer & Grassberger 2004,
    cond-mat/0305641, eq. 20 with k = 1). A duplicate's r_i is 0: it counts as the smallest distance
    above 0, so that more duplicates are less entropy and one does not decide all; -inf when all
    points are equal. Features after a ReLU have no density: there it is an index, comparable
    between sets of one N and one network only. Raises ValueError unless N >= 2 and all is finite.
    """
    x = checked(features, 2)
    N, d = x.shape
    r = _distances(x)
    if not r.any():
        return -np.inf
    r[r == 0] = r[r > 0].min()
    log_V_d = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    return float(d * np.log(r).mean() + log_V_d + digamma(N) - digamma(1))


def distance_to_training(samples, training):
    """The mean distance from samples (N, d) to the nearest each of training (M, d), as features.

    `training` is what the model that made the samples was trained on; it grows smaller with M, so
    compare sets of one size. Raises ValueError for two sets that are the same, unless all in them
    are equal, and as `entropy`.
    """
    x, y = checked(samples, 1), checked(training, 1)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples have {x.shape[1]} features and training images {y.shape[1]}")
    if np.array_equal(x, y) and np.ptp(x, 0).any():
        raise ValueError("samples and training set are the same: every distance would be 0")
    return float(_distances(y, x).mean())


def checked(features, least):
    """features (N, d) as a NumPy array of float64; ValueError unless finite and N >= least."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < least or not np.isfinite(x).all():
        raise ValueError(f"features {x.shape} are not (N, d) and finite, with N of {least} or more")
    return x


def _distances(x, queries=None):
    """From each query (N, d) to the nearest of x; without queries, of x to the nearest other."""
    # The search expands |a - b|^2, where equal points come out as 1e-7 apart and not as 0.
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x)
    index = search.kneighbors(queries, return_distance=False)[:, 0]
    return np.linalg.norm((x if queries is None else queries) - x[index], axis=1)
