"""The model's posterior covariance and its confidence, against Gaussians in closed form."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from common.data import load_real
from common.model.ddpm import DDPM
from common.model.unet import ContextUnet
from common.spectrum import jacobian, posterior

ALPHABAR = 0.6
SIGMA = (1 - ALPHABAR) ** 0.5


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(D, seed=0):
    return torch.linalg.qr(normal(D, D, seed=seed))[0]


def linear(A):
    """The function eps(x_t, t, c) whose Jacobian is A everywhere."""
    return lambda x_t, t, c: (x_t.flatten(1) @ A.T).view_as(x_t)


def conditions(n):
    """Times and classes that no eps of this file's formulas reads."""
    return torch.ones(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)


def ideal_jacobian(variances, Q):
    """J of the ideal denoiser of N(0, Q diag(variances) Q^T)."""
    return Q @ torch.diag(SIGMA / (ALPHABAR * variances + SIGMA**2)) @ Q.T


@pytest.fixture(scope="module")
def network():
    """A small DDPM in float64 whose BatchNorm has seen images, with 3 anchors and their noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ddpm = DDPM(ContextUnet(1, 8), n_T=50).double()
    x_0, c = load_real("digits").subset(slice(0, 3))
    x_0, noise = x_0.double() / 255, normal(3, 1, 28, 28)
    t = torch.tensor([5, 10, 30])
    with torch.no_grad():
        ddpm.eps(ddpm.noised(x_0, noise, t), t, c)
    return ddpm.eval(), x_0, t, c, noise


# --- C and the small singular values --------------------------------------------------------------


def test_C_of_the_ideal_denoiser_of_a_gaussian_is_its_posterior_covariance():
    D, Q = 70, orthogonal(70)
    variances = torch.linspace(0, 3, D, dtype=torch.float64).square()
    J = ideal_jacobian(variances, Q)
    # Cov[x_0 | x_t] from the joint covariance of x_0 and x_t.
    S = Q @ torch.diag(variances) @ Q.T
    S_t = ALPHABAR * S + SIGMA**2 * torch.eye(D, dtype=torch.float64)
    covariance = S - ALPHABAR * S @ torch.linalg.solve(S_t, S)
    expected = torch.linalg.eigvalsh(ALPHABAR / SIGMA**2 * covariance).flip(0).numpy()
    values = posterior.posterior_eigenvalues(J[None], SIGMA)
    assert values.shape == (1, D) and values.dtype == np.float64
    np.testing.assert_allclose(values[0], expected, atol=1e-12)

    statistics = posterior.posterior_statistics(J[None], SIGMA)
    assert statistics.keys() == posterior.STATISTICS.keys()
    signal = ALPHABAR * variances.numpy()
    of_C, of_J = signal / (signal + SIGMA**2), SIGMA**2 / (signal + SIGMA**2)  # ascending, desc.
    exact = {
        "log_posterior_20": np.log(of_C[-20:]).mean(),
        "free_directions": (signal > SIGMA**2).sum(),
        "log_singular_20": np.log(of_J[-20:]).mean(),
        "log_singular_60": np.log(of_J[-60:]).mean(),
    }
    assert 20 < exact["free_directions"] < D and exact["log_singular_60"] < -0.5
    for name, value in exact.items():
        np.testing.assert_allclose(statistics[name], [value], rtol=1e-10, err_msg=name)


def test_a_jacobian_that_is_not_symmetric():
    """C sees the symmetric part alone, the singular values see all of J."""
    D = 24
    rotation = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()] * (D // 2))
    half = torch.eye(D, dtype=torch.float64) / 2
    J = torch.stack([rotation, half + 2 * rotation, half])
    statistics = posterior.posterior_statistics(J, SIGMA)
    C = np.array([1, 1 - SIGMA / 2, 1 - SIGMA / 2])
    s = SIGMA * np.array([1, (0.25 + 4) ** 0.5, 0.5])
    np.testing.assert_allclose(posterior.posterior_eigenvalues(J, SIGMA), C[:, None] * np.ones(D))
    np.testing.assert_allclose(statistics["log_posterior_20"], np.log(C), atol=1e-12)
    np.testing.assert_allclose(statistics["log_singular_20"], np.log(s))
    np.testing.assert_allclose(statistics["log_singular_60"], np.log(s))  # of all 24
    np.testing.assert_array_equal(statistics["free_directions"], [D, D, D])


def test_values_too_small_for_a_logarithm_count_as_the_floor():
    """An eigenvalue of C may be negative in a network, and a singular value 0."""
    A = torch.diag(torch.cat((torch.full((15,), 2.0), torch.zeros(15)))).double() / SIGMA
    statistics = posterior.posterior_statistics(A[None], SIGMA)  # C: 15 times 1 and 15 times -1
    floor = np.log(1e-4)
    np.testing.assert_allclose(statistics["log_posterior_20"], [5 / 20 * floor])
    np.testing.assert_allclose(statistics["log_singular_20"], [(15 * floor + 5 * np.log(2)) / 20])
    np.testing.assert_array_equal(statistics["free_directions"], [15])


def test_each_anchor_has_its_sigma_and_known_eigenvalues_are_used():
    J = normal(3, 30, 30) / 10
    sigma = np.array([0.2, 0.5, 0.9])
    together = posterior.posterior_statistics(J.float(), sigma)
    for b in range(3):
        alone = posterior.posterior_statistics(J[b : b + 1], sigma[b])
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][b], value[0], rtol=1e-4, err_msg=name)
    eigenvalues = jacobian.eigenvalues(J)
    known = posterior.posterior_statistics(J, sigma, eigenvalues)
    of_fourfold = posterior.posterior_statistics(J, sigma, 4 * eigenvalues)
    np.testing.assert_allclose(
        of_fourfold["log_singular_20"] - known["log_singular_20"], np.log(2), rtol=1e-6
    )
    J[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"not finite at anchors \[1\]"):
        posterior.posterior_statistics(J, sigma, eigenvalues)


# --- directions of the data -----------------------------------------------------------------------


def test_principal_directions_of_images_that_were_made_of_them():
    Q, k = orthogonal(36)[:, :5].T, 5
    scores = torch.linalg.qr(torch.cat((torch.ones(40, 1), normal(40, 5)), dim=1))[0][:, 1:]
    assert scores.mean(dim=0).abs().max() < 1e-15  # and orthonormal
    images = 7 + (scores * torch.tensor([9.0, 7, 5, 3, 1])) @ Q
    found = posterior.principal_directions(images.view(40, 1, 6, 6), k)
    assert found.dtype == torch.float64
    overlap = (found @ Q.T).numpy()
    np.testing.assert_allclose(np.abs(overlap), np.eye(5), atol=1e-12)
    largest = found.abs().argmax(dim=1)
    assert (found[range(5), largest] > 0).all()
    assert (np.diag(overlap) < 0).any()  # Q has other signs, so that the rule is seen
    with pytest.raises(ValueError, match="vary in 5 directions do not have 6"):
        posterior.principal_directions(images, 6)


def test_principal_directions_of_digits_are_those_of_scikit_learn():
    data = load_real("digits")
    images = data.images[data.labels == 3]
    found = posterior.principal_directions(images, 20).numpy()
    expected = PCA(20, svd_solver="full").fit(images.flatten(1).numpy().astype(float)).components_
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(found @ found.T, np.eye(20), atol=1e-12)


def test_tangent_quadratics_of_a_linear_function_that_is_not_symmetric():
    A, x_t = normal(12, 12), normal(3, 1, 3, 4, seed=1)
    of_all, of_each = normal(5, 12, seed=2), normal(3, 5, 12, seed=3)
    for v in (of_all, of_each):
        found = posterior.tangent_quadratics(linear(A), x_t, *conditions(3), v, chunk=2)
        expected = np.einsum("bki,ij,bkj->bk", v.expand(3, -1, -1), A, v.expand(3, -1, -1))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_tangent_statistics_of_a_network_agree_with_its_dense_jacobian(network):
    ddpm, x_0, t, c, noise = network
    data, sigma = load_real("digits"), ddpm.sqrtmab[t].double().numpy()
    v = torch.stack(
        [posterior.principal_directions(data.images[data.labels == k], 20) for k in c.tolist()]
    )
    x_t = ddpm.noised(x_0, noise, t)
    found = posterior.tangent_statistics(ddpm.eps, x_t, t, c, noise, sigma, v)
    J = jacobian.jacobian(ddpm.eps, x_t, t, c, chunk=112)
    C = torch.eye(784) - torch.from_numpy(sigma)[:, None, None] * (J + J.mT) / 2
    with torch.no_grad():
        error = (ddpm.eps(x_t, t, c) - noise).flatten(1)
    for k in (10, 20):
        variance = torch.einsum("bki,bij,bkj->b", v[:, :k], C, v[:, :k])
        residual = torch.stack([(v[b, :k] @ error[b]).square().sum() for b in range(3)])
        np.testing.assert_allclose(found[f"tangent_variance_{k}"], variance, rtol=1e-10)
        np.testing.assert_allclose(found[f"tangent_residual_{k}"], residual, rtol=1e-10)
    single = [each[:1].float() for each in (x_t, noise)]
    of_float32 = posterior.tangent_statistics(
        ddpm.float().eps, single[0], t[:1], c[:1], single[1], sigma[:1], v[:1]
    )
    for name, values in of_float32.items():
        np.testing.assert_allclose(values[0], found[name][0], rtol=1e-4, err_msg=name)
    ddpm.double()
    with pytest.raises(ValueError, match="19 directions: 20 are needed"):
        posterior.tangent_statistics(ddpm.eps, x_t, t, c, noise, sigma, v[:, :19])


# --- does it know how uncertain it is -------------------------------------------------------------


def exact_sample(variances, Q, n):
    """n pairs x_0, eps whose sample moments are exactly those of N(0, Q diag Q^T) and N(0, I)."""
    D = len(variances)
    white = torch.linalg.qr(normal(n, 2 * D, seed=4))[0] * n**0.5
    return (white[:, :D] * variances.sqrt()) @ Q.T, white[:, D:]


@pytest.mark.parametrize("narrowing", [1, 0.5, 0.1, 4])
def test_over_confidence_of_a_model_of_narrower_data(narrowing):
    D, n = 24, 60
    Q, variances = orthogonal(D, seed=5), torch.linspace(0.2, 2, D, dtype=torch.float64).flip(0)
    x_0, noise = exact_sample(variances, Q, n)
    x_t = ALPHABAR**0.5 * x_0 + SIGMA * noise
    J = ideal_jacobian(narrowing * variances, Q)
    found = posterior.tangent_statistics(linear(J), x_t, *conditions(n), noise, SIGMA, Q.T)
    # eps_hat = j x_t along a direction, so eps_hat - eps = j sqrt(alphabar) x_0 + (j sigma - 1) eps
    j = SIGMA / (ALPHABAR * narrowing * variances + SIGMA**2)
    made = j.square() * ALPHABAR * variances + (j * SIGMA - 1).square()
    expected = 1 - SIGMA * j
    for k in (10, 20):
        variance, residual = (found[f"tangent_{name}_{k}"] for name in ("variance", "residual"))
        exact = (made[:k].sum() / expected[:k].sum()).log().item()
        over = posterior.overconfidence(residual, variance)
        np.testing.assert_allclose(over, exact, atol=1e-10)
        assert np.sign(np.round(over, 9)) == np.sign(1 - narrowing)
        np.testing.assert_allclose(
            posterior.log_tangent_variance(variance), expected[:k].sum().log().item(), rtol=1e-10
        )


def test_over_confidence_is_a_logarithm_of_sums():
    residual = np.array([[[1, 3], [8, 8]], [[2, 2], [1, 0]]])  # (2, 2, A)
    variance = np.array([[[2, 2], [1, 3]], [[2, 2], [-1, -3]]])
    over = posterior.overconfidence(residual, variance)
    # Where the model expects less than no error, that counts as the floor.
    np.testing.assert_allclose(over, [[0, np.log(4)], [0, np.log(0.5 / 1e-4)]], atol=1e-12)
    np.testing.assert_allclose(posterior.log_tangent_variance([2, -1, 0]), np.log([2, 1e-4, 1e-4]))


# --- all of one model -----------------------------------------------------------------------------


def test_all_streams_of_a_model_at_once():
    D, A = 24, 3
    Q, variances = orthogonal(D), torch.linspace(0.5, 2, D, dtype=torch.float64)
    sigma_of = torch.tensor([0.0, 0.3, 0.8], dtype=torch.float64)
    gains = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)  # of the classes

    def eps(x_t, t, c):
        precision = 1 / ((1 - sigma_of[t].square())[:, None] * variances + sigma_of[t, None] ** 2)
        return gains[c, None] * sigma_of[t, None] * ((x_t @ Q) * precision) @ Q.T

    x_0, c, noise = normal(A, D), torch.tensor([0, 2, 1]), normal(2, A, D, seed=1)
    directions = torch.stack([orthogonal(D, seed=i)[:20] for i in range(A)])
    times, alphabar = [1, 2], 1 - sigma_of[1:].square()
    found = posterior.generation_streams(eps, x_0, c, noise, times, alphabar, directions)
    assert {*jacobian.STATISTICS, *posterior.STATISTICS} < found.keys()
    assert all(values.shape == (2, A) for values in found.values())
    for i, t in enumerate(times):
        sigma = sigma_of[t].item()
        for a in range(A):
            j = gains[c[a]] * sigma / ((1 - sigma**2) * variances + sigma**2)
            J = Q @ torch.diag(j) @ Q.T
            C = torch.eye(D) - sigma * J
            v = directions[a]
            x_t = (1 - sigma**2) ** 0.5 * x_0[a] + sigma * noise[i, a]
            expected = {
                "sigma_norm": sigma * j.max(),
                "posterior_variance": sigma**2 / (1 - sigma**2) * C.trace() / D,
                "free_directions": (torch.linalg.eigvalsh(C) > 0.5).sum(),
                "log_singular_60": (sigma * j).log().mean(),
                "tangent_variance_20": torch.einsum("ki,ij,kj->", v, C, v),
                "tangent_residual_10": (v[:10] @ (J @ x_t - noise[i, a])).square().sum(),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][i, a], value, rtol=1e-9, err_msg=name)
