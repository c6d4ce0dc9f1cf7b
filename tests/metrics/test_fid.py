"""The Frechet distance against scipy, closed forms and arithmetic of high precision."""

import mpmath
import numpy as np
import pytest
import scipy.linalg

from common.metrics.fid import BLOCK, calculate_frechet_distance, feature_statistics


def rng(seed=0):
    return np.random.default_rng(seed)


def features(n, d, seed):
    """Correlated features (n, d), scales from 1 to 10, mean away from 0."""
    r = rng(seed)
    return r.normal(size=(n, d)) @ r.normal(size=(d, d)) * np.geomspace(1, 10, d) + r.normal(size=d)


def rotation(d, seed=0):
    return np.linalg.qr(rng(seed).normal(size=(d, d)))[0]


def test_statistics_are_the_mean_and_the_unbiased_covariance():
    x = features(30, 4, 0).astype(np.float32)
    mu, sigma = feature_statistics(x)
    centred = x.astype(np.float64) - x.astype(np.float64).sum(0) / 30
    np.testing.assert_allclose(mu, x.astype(np.float64).sum(0) / 30, rtol=1e-14)
    np.testing.assert_allclose(sigma, centred.T @ centred / 29, rtol=1e-12)
    assert mu.dtype == sigma.dtype == np.float64


def test_statistics_of_more_features_than_fit_in_a_block_keep_their_digits():
    """Far from 0, where the mean of squares less the square of the mean would have none left."""
    x = features(2 * BLOCK + 7, 5, 0) + 1e7
    mu, sigma = feature_statistics(x)
    np.testing.assert_allclose(mu, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(sigma, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("d", [2, 20, 84])
def test_equals_the_square_root_of_the_product_by_scipy(d):
    (mu1, s1), (mu2, s2) = (feature_statistics(features(10 * d, d, seed)) for seed in (1, 2))
    root = scipy.linalg.sqrtm(s1 @ s2)
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real)
    assert calculate_frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected, rel=1e-9)


def test_closed_form_of_covariances_that_commute():
    """sum_i (sqrt(a_i) - sqrt(b_i))^2 for the eigenvalues a and b along common axes."""
    a, b, shift = np.geomspace(0.01, 100, 30), rng().uniform(0, 5, 30), rng().normal(size=30)
    axes = rotation(30)
    s1, s2 = ((axes * values) @ axes.T for values in (a, b))
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = calculate_frechet_distance(np.ones(30), s1, 1 + shift, s2)
    assert found == pytest.approx(expected, rel=1e-12)


def test_closed_form_in_one_dimension():
    found = calculate_frechet_distance([1.0], [[4.0]], [-2.0], [[9.0]])
    assert found == pytest.approx(3**2 + (2 - 3) ** 2, rel=1e-14)


def test_a_shifted_mean_alone_adds_its_squared_length():
    mu, sigma = feature_statistics(features(200, 12, 0))
    shift = rng().normal(size=12)
    found = calculate_frechet_distance(mu, sigma, mu + shift, sigma)
    assert found == pytest.approx((shift**2).sum(), rel=1e-10)


def in_40_digits(x, y):
    """The distance of samples x (N, D) and y (M, D), by the eigenvalues of S1^(1/2) S2 S1^(1/2)."""
    with mpmath.workdps(40):

        def statistics(z):
            z = mpmath.matrix(z.tolist())
            mean = [mpmath.fsum(z[:, j]) / z.rows for j in range(z.cols)]
            centred = mpmath.matrix(z.rows, z.cols)
            for i in range(z.rows):
                for j in range(z.cols):
                    centred[i, j] = z[i, j] - mean[j]
            return mpmath.matrix(mean), centred.T * centred / (z.rows - 1)

        (mu1, s1), (mu2, s2) = statistics(x), statistics(y)
        values, vectors = mpmath.eigsy(s1)
        half = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        overlap = mpmath.eigsy(half * s2 * half, eigvals_only=True)
        roots = mpmath.fsum(mpmath.sqrt(max(v, 0)) for v in overlap)
        traces = mpmath.fsum(s1[i, i] + s2[i, i] for i in range(s1.rows))
        shift = mu1 - mu2
        return float(mpmath.fsum(v**2 for v in shift) + traces - 2 * roots)


@pytest.mark.parametrize(("n", "m"), [(5, 6), (4, 100), (100, 100)])
def test_covariances_of_too_few_samples_in_high_precision(n, m):
    x, y = features(n, 16, 1), features(m, 16, 2)
    found = calculate_frechet_distance(*feature_statistics(x), *feature_statistics(y))
    assert found == pytest.approx(in_40_digits(x, y), rel=1e-12)


@pytest.mark.parametrize("n", [10, 40, 83])
def test_covariances_of_too_few_samples_against_their_factors(n):
    """With S1 = A A^T and S2 = B B^T the root's trace is the nuclear norm of A^T B (n - 1 of n
    samples count), which needs no root of a singular matrix."""
    x, y = features(n, 84, 1), features(n, 84, 2)
    a, b = ((z - z.mean(0)).T / (n - 1) ** 0.5 for z in (x, y))
    overlap = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    traces = (a**2).sum() + (b**2).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + traces - 2 * overlap
    found = calculate_frechet_distance(*feature_statistics(x), *feature_statistics(y))
    assert found == pytest.approx(expected, rel=1e-12)


def test_features_that_never_fire_change_nothing():
    """Units of a ReLU that are 0 for every image, in one set or in both."""
    x, y = features(300, 10, 1), features(300, 10, 2)
    y[:, 3] = 0
    expected = calculate_frechet_distance(*feature_statistics(x), *feature_statistics(y))
    x, y = (np.pad(z, ((0, 0), (4, 4))) for z in (x, y))
    found = calculate_frechet_distance(*feature_statistics(x), *feature_statistics(y))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(200, 300), (10, 20), (10, 300)])
def test_symmetric_and_zero_only_for_equal_statistics(n, m):
    one, other = feature_statistics(features(n, 30, 1)), feature_statistics(features(m, 30, 2))
    scale = np.trace(one[1]) + np.trace(other[1])
    there = calculate_frechet_distance(*one, *other)
    assert there == pytest.approx(calculate_frechet_distance(*other, *one), rel=1e-12)
    assert there > 1e-2 * scale
    assert abs(calculate_frechet_distance(*one, *one)) < 1e-12 * scale


def test_what_is_no_pair_of_gaussians_is_refused():
    mu, sigma = np.zeros(3), np.eye(3)
    for wrong in (
        (mu, sigma, np.zeros(4), sigma),
        (mu, sigma, mu, np.eye(4)),
        (mu, np.ones(3), mu, sigma),
    ):
        with pytest.raises(ValueError, match="shapes"):
            calculate_frechet_distance(*wrong)
    for value in (np.nan, np.inf):
        for wrong in ((mu + value, sigma, mu, sigma), (mu, sigma, mu, sigma + value)):
            with pytest.raises(ValueError, match="finite"):
                calculate_frechet_distance(*wrong)
    for wrong in (np.zeros(5), np.zeros((1, 5)), np.zeros((2, 3, 4))):
        with pytest.raises(ValueError, match="shape"):
            feature_statistics(wrong)
