"""Entropy of samples and their distance to training data: closed forms, and other libraries."""

import numpy as np
import pytest
import scipy.stats
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma

from common.metrics.neighbours import distance_to_training, entropy


def rng(seed=0):
    return np.random.default_rng(seed)


def relu(n, d=84, seed=0):
    """float32 features as LeNet's: mostly zeros, some rows equal."""
    x = (rng(seed).normal(size=(n, 8)) @ rng(9).normal(size=(8, d)) - 2).clip(min=0)
    x[n // 2 : n // 2 + 10] = x[:10]
    return x.astype(np.float32)


@pytest.mark.parametrize(
    "covariance", [[[1, 0], [0, 1]], [[4, 1.5], [1.5, 1]], [[1e-4, 0], [0, 9]]]
)
def test_the_entropy_of_a_gaussian_in_two_dimensions(covariance):
    N = 4000
    x = rng().multivariate_normal([3, -5], covariance, size=N)
    exact = scipy.stats.multivariate_normal([3, -5], covariance).entropy()
    # The estimate's variance is (psi'(1) + Var log p) / N = (pi^2 / 6 + 1) / N, nearly.
    assert abs(entropy(x) - exact) < 3.5 * np.sqrt((np.pi**2 / 6 + 1) / N)


def test_the_entropy_of_three_points_by_hand():
    expected = np.log(2) / 3 + np.log(2) + digamma(3) - digamma(1)  # r = 1, 1, 2; V_1 = 2
    np.testing.assert_allclose(entropy([[0.0], [1], [3]]), expected, rtol=1e-14)


def test_the_entropy_of_features_is_the_formula_with_another_search():
    x = rng(1).normal(size=(300, 84)).clip(min=0)
    r = cKDTree(x).query(x, k=2)[0][:, 1]
    log_ball = 42 * np.log(np.pi) - scipy.special.gammaln(43)
    expected = 84 * np.log(r).mean() + log_ball + digamma(300) - digamma(1)
    np.testing.assert_allclose(entropy(x), expected, rtol=1e-12)
    np.testing.assert_allclose(entropy(3 * x + 1), expected + 84 * np.log(3), rtol=1e-12)


def test_duplicates_count_as_the_smallest_distance():
    expected = np.log(2) / 4 + np.log(2) + digamma(4) - digamma(1)  # r = 0, 0, 1, 2 -> 1, 1, 1, 2
    np.testing.assert_allclose(entropy([[0.0], [0], [1], [3]]), expected, rtol=1e-14)
    assert entropy(np.ones((5, 3))) == -np.inf

    x = relu(200)
    r = cKDTree(x.astype(float)).query(x, k=2)[0][:, 1]
    assert (r == 0).sum() == 20
    r[r == 0] = r[r > 0].min()
    log_ball = 42 * np.log(np.pi) - scipy.special.gammaln(43)
    expected = 84 * np.log(r).mean() + log_ball + digamma(200) - digamma(1)
    np.testing.assert_allclose(entropy(x), expected, rtol=1e-12)
    more = x.copy()
    more[50:60] = x[20:30]
    assert entropy(more) < entropy(x)


def test_the_distance_to_the_training_set():
    samples, training = relu(150, seed=1), relu(400, seed=2)
    expected = cdist(samples.astype(float), training.astype(float)).min(axis=1).mean()
    np.testing.assert_allclose(distance_to_training(samples, training), expected, rtol=1e-12)
    assert distance_to_training(training[5:9], training) == 0
    assert distance_to_training(np.ones((4, 2)), np.ones((4, 2))) == 0  # a collapsed chain
    # Each sample's neighbour in the training set, and not the other way round.
    assert distance_to_training([[0.0], [1]], [[0.0], [3], [9]]) == 0.5
    assert distance_to_training([[0.0], [3], [9]], [[0.0], [1]]) == 10 / 3


def test_wrong_features_are_refused():
    x = rng().normal(size=(6, 3))
    with pytest.raises(ValueError, match="the same"):
        distance_to_training(x, x.copy())
    with pytest.raises(ValueError, match="3 features and training images 2"):
        distance_to_training(x, x[:, :2])
    for bad in (x[:1], x[0], np.where(x == x[3, 1], np.nan, x)):
        with pytest.raises(ValueError, match="not .N, d. and finite"):
            entropy(bad)
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        distance_to_training(x, x[:0])
