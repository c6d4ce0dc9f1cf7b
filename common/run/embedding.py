"""Where images lie beside real ones in two dimensions, by t-SNE (van der Maaten & Hinton 2008)."""

import functools

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

N_COMPONENTS, PERPLEXITY = 50, 30


def embed(real, fake, seed):
    """The places of real (N, 2) and of other images (M, 2), of uint8 (N, ...) and (M, ...), and the
    place (N, 2) that each real one had without the others; N, M at least 6.

    The real images are embedded alone first, which gives the same places for the same seed. From
    there, with each other image beside the real one that is nearest to it, both are embedded
    together without early exaggeration, so that real images hardly move and the frames of several
    generations can be compared.
    """
    real, fake = np.asarray(real), np.asarray(fake)
    alone = _alone(real.tobytes(), len(real), seed)
    both = _reduced(np.concatenate([real, fake]), seed)
    n, rng = len(real), np.random.default_rng(seed)
    nearest = NearestNeighbors(n_neighbors=1).fit(both[:n])
    beside = alone[nearest.kneighbors(both[n:], return_distance=False)[:, 0]]
    spread = alone.std()
    beside += 1e-3 * spread * rng.standard_normal(beside.shape)  # equal places would stay equal
    scale = (len(both) / n) ** 0.5  # more points take more room
    start = (scale * np.concatenate([alone, beside])).astype(np.float32)
    rate = len(both) / 48  # scikit-learn's own with its exaggeration of 12, but never more
    how = {"early_exaggeration": 1, "learning_rate": rate, "max_iter": 500}
    places = _tsne(both, seed, init=start, **how) / scale
    return places[:n], places[n:], alone


@functools.lru_cache(maxsize=1)  # a loop asks for the same in every generation
def _alone(content, n, seed):
    return _tsne(_reduced(np.frombuffer(content, np.uint8).reshape(n, -1), seed), seed)


def moved(real, alone):
    """The median distance that real points moved, in units of their spread (the root mean square
    distance from their centre)."""
    spread = np.square(alone - alone.mean(axis=0)).sum(axis=1).mean() ** 0.5
    return float(np.median(np.linalg.norm(real - alone, axis=1)) / spread)


def _reduced(images, seed):
    pixels = images.reshape(len(images), -1) / 255
    components = min(N_COMPONENTS, len(pixels) - 1)
    return PCA(components, random_state=seed).fit_transform(pixels)


def _tsne(points, seed, **how):
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=seed, **how).fit_transform(points)
