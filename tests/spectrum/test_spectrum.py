"""The Jacobian's spectrum: closed forms, dense float64 computations, and what J must not be."""

import copy
import functools

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional

from common.data import batches, load_real
from common.model.ddpm import DDPM
from common.model.unet import ContextUnet, frozen
from common.spectrum import jacobian


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(A):
    """The function eps(x_t, t, c) whose Jacobian is A everywhere."""
    return lambda x_t, t, c: (x_t.flatten(1) @ A.T).view_as(x_t)


def anchors(n, *shape):
    """n of them, with times and classes that no eps of this file's formulas reads."""
    return normal(n, *shape), torch.ones(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)


def one(x_t, t, c, index=0):
    return x_t[index : index + 1], t[index : index + 1], c[index : index + 1]


def with_singular_values(s, seed=3):
    """A matrix with these singular values and random singular vectors."""
    U, V = (torch.linalg.qr(normal(len(s), len(s), seed=seed + i))[0] for i in (0, 1))
    return U @ torch.diag(torch.as_tensor(s, dtype=torch.float64)) @ V.T


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So small networks gain nothing from more, and lose much when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained():
    """A small DDPM after 150 steps on the digits, with its noised images x_t, t, c and noise eps.

    Trained so that its BatchNorm statistics, and so its Jacobian, are those of no trivial network.
    """
    data = load_real("digits")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ddpm = DDPM(ContextUnet(1, 8), betas=(1e-4, 0.2), n_T=50)
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=3e-3)
    for _ in range(4):
        for x_0, c in batches(data, 40, generator):
            optimizer.zero_grad()
            ddpm(x_0, c, generator).backward()
            optimizer.step()
    ddpm.eval()
    n = 32
    index = torch.randperm(len(data.labels), generator=generator)[:n]
    eps = torch.randn(n, 1, 28, 28, generator=generator)
    t = torch.randint(15, 51, (n,), generator=generator)  # sigma_t from 0.6 to 1
    x_t = ddpm.noised(data.images[index].float() / 255, eps, t)
    return ddpm, x_t, t, data.labels[index], eps


@pytest.fixture(scope="module")
def dense(trained):
    """The trained network in float64, two anchors, and the exact J at them."""
    ddpm, x_t, t, c, _ = trained
    ddpm = copy.deepcopy(ddpm).double()
    at = x_t[:2].double(), t[:2], c[:2]
    return ddpm, at, jacobian.jacobian(ddpm.eps, *at)


# --- J --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_the_jacobian_of_a_linear_function_is_its_matrix_and_not_the_transpose(chunk):
    A = normal(12, 12) + 5 * torch.diag(normal(11, seed=1), 1)
    J = jacobian.jacobian(linear(A), *anchors(3, 1, 3, 4), chunk=chunk)
    assert J.shape == (3, 12, 12) and J.dtype == torch.float64
    torch.testing.assert_close(J, A.expand(3, 12, 12), rtol=1e-12, atol=1e-12)
    assert (J - A.T).norm() > 1


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_a_vector_jacobian_product_is_of_the_transpose_and_each_anchors_own(chunk):
    A, u = normal(12, 12, seed=1), normal(3, 7, 12, seed=2)
    x_t, t, c = anchors(3, 1, 3, 4)

    def eps(x_t, t, c):  # J = A diag(x_t)
        return linear(A)(x_t.square() / 2, t, c)

    products = jacobian.vector_jacobian_products(eps, x_t, t, c, u, chunk=chunk)
    expected = u @ A @ torch.diag_embed(x_t.flatten(1))
    torch.testing.assert_close(products, expected, rtol=1e-12, atol=1e-12)


def test_products_of_a_network_are_those_with_its_jacobian(dense):
    ddpm, at, J = dense
    u = normal(2, 20, 784)
    products = jacobian.vector_jacobian_products(ddpm.eps, *at, u)
    torch.testing.assert_close(products, u @ J, rtol=0, atol=1e-12 * J.norm().item())


def test_the_jacobian_of_a_network_is_that_of_finite_differences(dense):
    ddpm, (x_t, t, c), J = dense
    columns = np.random.default_rng(0).choice(784, 40, replace=False)
    h = 1e-6
    for anchor in range(2):
        steps = torch.zeros(40, 784, dtype=torch.float64)
        steps[range(40), columns] = h
        steps = steps.view(40, 1, 28, 28)
        same = t[anchor].expand(40), c[anchor].expand(40)
        with torch.no_grad():
            after, before = (ddpm.eps(x_t[anchor] + step, *same) for step in (steps, -steps))
        differences = ((after - before) / (2 * h)).flatten(1).T  # (784, 40)
        error = (J[anchor][:, columns] - differences).norm() / differences.norm()
        assert error < 1e-7


def test_a_frozen_network_has_the_same_jacobian(dense):
    ddpm, at, J = dense
    folded = copy.deepcopy(ddpm)
    folded.nn_model = frozen(ddpm.nn_model)
    torch.testing.assert_close(jacobian.jacobian(folded.eps, *at), J, rtol=0, atol=1e-10)


def test_an_anchors_jacobian_is_the_same_whichever_others_there_are(trained):
    ddpm, x_t, t, c, _ = trained
    x_t, t, c = x_t[:3], t[:3], c[:3]
    J = jacobian.jacobian(ddpm.eps, x_t, t, c)
    order = [2, 0, 1]
    assert torch.equal(jacobian.jacobian(ddpm.eps, x_t[order], t[order], c[order]), J[order])
    assert torch.equal(jacobian.jacobian(ddpm.eps, x_t[1:2], t[1:2], c[1:2]), J[1:2])


@pytest.mark.parametrize("chunk", [5, 61, 112])
def test_the_chunk_changes_a_jacobian_by_rounding_only(trained, chunk):
    ddpm, x_t, t, c, _ = trained
    J = jacobian.jacobian(ddpm.eps, *one(x_t, t, c))
    other = jacobian.jacobian(ddpm.eps, *one(x_t, t, c), chunk=chunk)
    assert (other - J).norm() / J.norm() < 1e-5


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_its_derivative(approximate):
    A, B = normal(12, 12, seed=1), normal(12, 12, seed=2)

    def eps(x_t, t, c):
        return functional.gelu(functional.gelu(x_t @ A.T, approximate=approximate) @ B.T)

    at = anchors(1, 12)
    expected = torch.autograd.functional.jacobian(lambda x: eps(x, 0, 0), at[0])[0, :, 0]
    torch.testing.assert_close(jacobian.jacobian(eps, *at)[0], expected, rtol=1e-12, atol=1e-12)


def test_a_network_is_left_as_it_was(trained):
    ddpm, x_t, t, c, _ = trained
    before = copy.deepcopy(ddpm.state_dict())
    jacobian.jacobian(ddpm.eps, *one(x_t, t, c), chunk=112)
    assert all(torch.equal(value, before[key]) for key, value in ddpm.state_dict().items())
    ddpm.zero_grad()
    jacobian.jacobian(ddpm.eps, *one(x_t, t, c), chunk=112)
    assert all(parameter.grad is None for parameter in ddpm.parameters())


# --- what must not happen silently ----------------------------------------------------------------


def test_a_network_in_train_mode_is_refused(trained):
    ddpm, x_t, t, c, _ = trained
    at = one(x_t, t, c)
    training = copy.deepcopy(ddpm)
    training.nn_model.down1.model[0].conv1[1].train()  # one BatchNorm is enough
    for eps in (training.eps, functools.partial(training.eps, w=2.0), training):
        with pytest.raises(ValueError, match=r"train mode.*\.eval\(\)"):
            jacobian.jacobian(eps, *at)

    # What would have come: the same loop over rows in train mode gives another J.
    x = at[0].clone().requires_grad_()
    rows = []
    for network in (ddpm, training.train()):
        y = network.eps(x, *at[1:]).flatten()
        rows.append(torch.stack([torch.autograd.grad(v, x, retain_graph=True)[0] for v in y[:40]]))
    exact = jacobian.jacobian(ddpm.eps, *at)[0, :40]
    torch.testing.assert_close(rows[0].flatten(1), exact, rtol=0, atol=1e-5)
    assert (rows[1] - rows[0]).norm() > 0.05 * rows[0].norm()


def switches():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision")]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]


def precision_settings():
    return tuple(getattr(*switch) for switch in switches())


@pytest.mark.filterwarnings("error")
def test_tf32_is_off_while_J_is_computed_and_back_afterwards():
    A, seen = normal(6, 6), []

    def eps(x_t, t, c):
        y = linear(A)(x_t, t, c)
        seen.append(precision_settings())
        y.register_hook(lambda gradient: seen.append(precision_settings()))
        return y

    default = precision_settings()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        fast = precision_settings()
        jacobian.jacobian(eps, *anchors(1, 6), chunk=3)
        assert precision_settings() == fast
        with pytest.raises(ZeroDivisionError):
            jacobian.jacobian(lambda x_t, t, c: 1 / 0, *anchors(1, 6))
        assert precision_settings() == fast and all(setting in ("tf32", True) for setting in fast)
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    finally:
        for switch, value in zip(switches(), default, strict=True):
            setattr(*switch, value)
    assert len(seen) == 3 and {value for pair in seen for value in pair} <= {"ieee", False}


def test_wrong_arguments_are_refused():
    x_t, t, c = anchors(2, 6)
    eps = linear(normal(6, 6))
    with pytest.raises(ValueError, match=r"shapes \(2, 6\), \(1,\), \(2,\)"):
        jacobian.jacobian(eps, x_t, t[:1], c)
    with pytest.raises(ValueError, match=r"eps has shape \(6, 3\)"):
        jacobian.jacobian(lambda x, t, c: eps(x, t, c)[:, :3], x_t, t, c)
    with pytest.raises(ValueError, match="no_grad"):
        jacobian.jacobian(torch.no_grad()(eps), x_t, t, c)
    for u in (normal(3, 6), normal(1, 3, 6), normal(2, 3, 5), normal(2, 0, 6)):
        with pytest.raises(ValueError, match=r"u has shape .*, not \(2, K, 6\)"):
            jacobian.vector_jacobian_products(eps, x_t, t, c, u)
    J = normal(3, 6, 6)
    J[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"anchors \[1\]"):
        jacobian.eigenvalues(J)
    for bad in ([1, -1e-9], [np.nan, 1], [0, 0]):
        with pytest.raises(ValueError, match="not all 0"):
            jacobian.spectrum_statistics(bad, 0, 0, 0.5, 0.75)
    with pytest.raises(ValueError, match="3 and 2 eigenvalues"):
        jacobian.log_spectrum_distance([1, 1, 1], [1, 1])


# --- eigenvalues ----------------------------------------------------------------------------------


def test_small_eigenvalues_keep_their_digits():
    s = np.logspace(0, -9, 30)
    A = with_singular_values(s)
    np.testing.assert_allclose(jacobian.eigenvalues(A[None])[0], s**2, rtol=1e-5)
    squared = torch.linalg.eigvalsh(A.T @ A).flip(0).numpy()
    assert np.abs(squared / s**2 - 1).max() > 0.1  # why J^T J is not decomposed


# --- what the spectrum means ----------------------------------------------------------------------


@pytest.mark.parametrize("alphabar", [0.99, 0.5, 0.01])
def test_the_ideal_denoiser_of_a_gaussian_in_closed_form(alphabar):
    D, sigma = 30, (1 - alphabar) ** 0.5
    variances = torch.linspace(0, 3, D, dtype=torch.float64).square()  # one direction is certain
    Q = torch.linalg.qr(normal(D, D))[0]
    covariance = Q @ torch.diag(variances) @ Q.T
    mean = normal(D, seed=1)
    # x_t ~ N(sqrt(alphabar) mean, C) and eps = -sigma grad log p(x_t).
    C = alphabar * covariance + sigma**2 * torch.eye(D, dtype=torch.float64)

    def eps(x_t, t, c):
        return sigma * torch.linalg.solve(C, (x_t - alphabar**0.5 * mean).T).T

    J = jacobian.jacobian(eps, *anchors(2, D), chunk=7)
    exact = (sigma / (alphabar * variances + sigma**2)).square().numpy()  # descending
    np.testing.assert_allclose(jacobian.eigenvalues(J), np.stack([exact, exact]), rtol=1e-8)

    posterior = alphabar * (sigma**2 * torch.linalg.solve(C, covariance)) / alphabar
    tweedie = sigma**2 / alphabar * (torch.eye(D) - sigma * J[0])
    torch.testing.assert_close(tweedie, posterior, rtol=0, atol=1e-8)

    statistics = jacobian.spectrum_statistics(
        jacobian.eigenvalues(J), jacobian.trace(J), jacobian.asymmetry(J), sigma, alphabar
    )
    s = np.sqrt(exact)
    expected = {
        "sigma_norm": 1,
        "log_energy": np.log(sigma**2 * np.mean(exact)),
        "trace": s.sum(),
        "effective_rank": np.exp(scipy.stats.entropy(s)),
        "stable_rank": np.sum(exact) / exact[0],
        "asymmetry": 0,
        "posterior_variance": posterior.trace().item() / D,
        "degrees_of_freedom": alphabar / sigma**2 * posterior.trace().item(),
    }
    assert statistics.keys() == expected.keys() == jacobian.STATISTICS.keys()
    for name, values in statistics.items():
        assert values.shape == (2,) and values.dtype == np.float64
        np.testing.assert_allclose(values, expected[name], rtol=1e-8, atol=1e-8, err_msg=name)


def test_the_ideal_denoiser_of_a_mixture_of_gaussians_in_closed_form():
    D, alphabar = 12, 0.6
    sigma = (1 - alphabar) ** 0.5
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = alphabar**0.5 * normal(3, D)
    factors = normal(3, D, D, seed=1)
    noise = sigma**2 * torch.eye(D, dtype=torch.float64)
    precisions = torch.linalg.inv(alphabar * factors @ factors.mT / D + noise)  # of x_t, (3, D, D)

    def parts(x):  # x (B, D) -> responsibilities (B, 3) and gradients of the components (B, 3, D)
        centred = x[:, None] - means
        gradients = -torch.einsum("mij,bmj->bmi", precisions, centred)
        log_p = weights.log() + precisions.logdet() / 2 + (gradients * centred).sum(dim=2) / 2
        return log_p.softmax(dim=1), gradients

    def eps(x_t, t, c):
        responsibilities, gradients = parts(x_t)
        return -sigma * (responsibilities[:, :, None] * gradients).sum(dim=1)

    at = anchors(4, D)
    r, g = parts(at[0])
    score = torch.einsum("bm,bmi->bi", r, g)
    hessian = (
        torch.einsum("bm,bmi,bmj->bij", r, g, g)
        - torch.einsum("bm,mij->bij", r, precisions)
        - torch.einsum("bi,bj->bij", score, score)
    )
    assert (r.max(dim=1).values < 0.999).any()  # more than one component matters
    J = jacobian.jacobian(eps, *at, chunk=5)
    torch.testing.assert_close(J, -sigma * hessian, rtol=1e-9, atol=1e-9)
    assert jacobian.asymmetry(J).max() < 1e-10


def test_the_trace_accounts_for_the_loss_of_any_network(trained):
    """E ||eps - eps_hat||^2 = E [||eps_hat||^2 + D - 2 sigma tr J]: Stein's lemma."""
    ddpm, x_t, t, c, eps = trained
    sigma = ddpm.sqrtmab[t].double().numpy()
    with torch.no_grad():
        eps_hat = ddpm.eps(x_t, t, c)
    loss = (eps - eps_hat).double().square().flatten(1).sum(dim=1).numpy()
    energy = eps_hat.double().square().flatten(1).sum(dim=1).numpy()
    tr_J = jacobian.trace(jacobian.jacobian(ddpm.eps, x_t, t, c))

    def apart(sigma_tr_J):
        """The two sides' difference at each anchor; pairing them keeps the standard error small."""
        return loss - (energy + 784 - 2 * sigma_tr_J)

    standard_error = scipy.stats.sem(apart(sigma * tr_J))
    assert abs(apart(sigma * tr_J).mean()) < 3.5 * standard_error
    for wrong in (-sigma * tr_J, tr_J, sigma**2 * tr_J, 0.95 * sigma * tr_J):
        assert abs(apart(wrong).mean()) > 10 * standard_error


# --- statistics -----------------------------------------------------------------------------------


def test_statistics_of_spectra_that_are_known():
    D = 9
    identity, rank_one = np.ones(D), np.eye(D)[0] * 4
    eigenvalues = np.stack([[identity, rank_one]] * 3)  # (3, 2, D)
    sigma, alphabar = 0.6, 0.64
    statistics = jacobian.spectrum_statistics(eigenvalues, [D, 2], [0, 0.5], sigma, alphabar)
    expected = {
        "sigma_norm": [0.6, 1.2],
        "log_energy": [np.log(0.36), np.log(0.36 * 4 / 9)],
        "trace": [9, 2],
        "effective_rank": [9, 1],
        "stable_rank": [9, 1],
        "asymmetry": [0, 0.5],
        "posterior_variance": [0.36 / 0.64 * 0.4, 0.36 / 0.64 * (1 - 1.2 / 9)],
        "degrees_of_freedom": [9 - 5.4, 9 - 1.2],
    }
    for name, values in statistics.items():
        assert values.shape == (3, 2), name
        np.testing.assert_allclose(values, [expected[name]] * 3, rtol=1e-12, err_msg=name)


def test_trace_and_asymmetry():
    J = normal(2, 7, 7)
    J[1] = J[1] - J[1].T
    np.testing.assert_allclose(jacobian.trace(J), [np.trace(each) for each in J.numpy()])
    expected = np.linalg.norm(J[0] - J[0].T) / np.linalg.norm(J[0])
    np.testing.assert_allclose(jacobian.asymmetry(J), [expected, 2])
    assert jacobian.trace(J.float()).dtype == jacobian.asymmetry(J.float()).dtype == np.float64


def test_the_distance_of_log_spectra_is_wasserstein_1():
    generator = np.random.default_rng(0)
    a, b = np.exp(generator.normal(size=(2, 3, 40)))
    distance = jacobian.log_spectrum_distance(a, b[:1])
    expected = [scipy.stats.wasserstein_distance(np.log(each), np.log(b[0])) for each in a]
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    np.testing.assert_allclose(jacobian.log_spectrum_distance(3 * a, a), np.log(3), rtol=1e-12)

    # Rounding errors of a float32 J are no distance.
    a[:, :5] = 0
    rounding = a.copy()
    rounding[:, :5] = 1e-16 * a.max()
    assert jacobian.log_spectrum_distance(a, rounding).max() == 0
    assert np.isfinite(jacobian.log_spectrum_distance(a, b)).all()
