"""The spectrum of J^T J, J[i, j] = d eps_i / d x_j: how the predicted noise answers to its input.

By Tweedie's second-order formula Cov[x_0 | x_t] = (sigma_t^2 / alphabar_t) (I - sigma_t J) for an
ideal denoiser: J is symmetric, sigma_t J has eigenvalue 1 in directions in which x_0 is certain and
less in those in which it is free (Manor & Michaeli 2309.13598; Kadkhodaie et al. 2310.02557).

`eps(x_t, t, c)` is any function of (B, ...) images that treats each image by itself, with values
like x_t: `DDPM.eps` in eval mode, fastest of a `frozen` network. D is the number of an image's
pixels. What is computed from J, and all that is small, is a NumPy array of float64.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import entr
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from common.precision import full_precision

# What `spectrum_statistics` computes, with the formula that labels an axis.
STATISTICS = {
    "sigma_norm": "spectral norm σ‖J‖₂",
    "log_energy": "log energy log(σ²‖J‖²/D)",
    "trace": "trace tr J",
    "effective_rank": "effective rank exp H(s/Σs)",
    "stable_rank": "stable rank ‖J‖²/‖J‖₂²",
    "asymmetry": "asymmetry ‖J − Jᵀ‖/‖J‖",
    "posterior_variance": "posterior variance (σ²/ᾱ)(1 − σ tr J/D)",
    "degrees_of_freedom": "degrees of freedom D − σ tr J",
}


def _check(eps, x_t, t, c):
    while isinstance(eps, functools.partial):
        eps = eps.func
    network = getattr(eps, "__self__", eps)
    modules = network.modules() if isinstance(network, nn.Module) else ()
    if any(module.training for module in modules):
        raise ValueError(
            "the network is in train mode, where an image's noise depends on its batch: "
            "call .eval() before differentiating it"
        )
    if not t.shape == c.shape == x_t.shape[:1]:
        shapes = ", ".join(str(tuple(each.shape)) for each in (x_t, t, c))
        raise ValueError(f"x_t, t and c have shapes {shapes}, not (B, ...), (B,) and (B,)")


def _recorded(eps, x_t, t, c, copies, differentiated=False):
    """`copies` copies of one anchor x_t (1, ...), and eps of them with the graph between.

    Its backward pass may be `differentiated` in turn, or is a little faster.
    """
    x = x_t.detach().repeat(copies, *[1] * (x_t.dim() - 1)).requires_grad_()
    with torch.enable_grad(), _LeanBackward(differentiated):
        y = eps(x, t.expand(copies), c.expand(copies))
    if y.shape != x.shape:
        raise ValueError(f"eps has shape {tuple(y.shape)} where x_t has {tuple(x.shape)}")
    if not y.requires_grad:
        raise ValueError("eps does not depend on x_t differentiably: is it under torch.no_grad?")
    return x, y


def jacobian(eps, x_t, t, c, chunk=16):
    """The exact J (B, D, D) at each anchor, J[b, i, j] = d eps_i / d x_j, with x_t's dtype.

    x_t (B, ...) floats; t (B,) and c (B,) int64. Memory holds the activations of `chunk` images:
    raise it on a GPU. Neither it nor the other anchors change an anchor's J (`chunk` up to
    rounding). Raises ValueError for wrong shapes, in train mode, and when eps records no gradient.
    """
    _check(eps, x_t, t, c)
    D = x_t[0].numel()
    chunk = min(chunk, D)
    cotangents = torch.eye(D, dtype=x_t.dtype, device=x_t.device).reshape(D, *x_t.shape[1:])
    J = x_t.new_empty(len(x_t), D, D)
    with full_precision():
        for anchor in range(len(x_t)):
            only = slice(anchor, anchor + 1)
            x, y = _recorded(eps, x_t[only], t[only], c[only], chunk)
            # One forward pass serves all rows; the last chunk may repeat some, so sizes are equal.
            for first in (*range(0, D - chunk, chunk), D - chunk):
                rows = slice(first, first + chunk)
                (gradients,) = torch.autograd.grad(y, x, cotangents[rows], retain_graph=True)
                J[anchor, rows] = gradients.reshape(chunk, D)
    return J


def eigenvalues(J):
    """All eigenvalues of J^T J, (B, D) descending, for J (B, D, D).

    They are J's squared singular values in float64; decomposing J^T J would lose half the digits
    of the small ones. Raises ValueError when J is not finite.
    """
    finite = J.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"J is not finite at anchors {(~finite).nonzero().flatten().tolist()}")
    return torch.linalg.svdvals(J.double().cpu()).square().numpy()


def trace(J):
    """tr J, (B,), for J (B, D, D)."""
    return J.double().diagonal(dim1=1, dim2=2).sum(dim=1).cpu().numpy()


def asymmetry(J):
    """||J - J^T||_F / ||J||_F, (B,), for J (B, D, D): 0 when symmetric, at most 2; nan for J = 0.

    The ideal denoiser's J is symmetric, being the Hessian of a log-density up to its factor.
    """
    J = J.double()
    return (
        (torch.linalg.norm(J - J.mT, dim=(1, 2)) / torch.linalg.norm(J, dim=(1, 2))).cpu().numpy()
    )


def spectrum_statistics(eigenvalues, trace, asymmetry, sigma, alphabar):
    """The numbers of STATISTICS, {name: (...)}, from eigenvalues (..., D) of J^T J.

    trace, asymmetry, sigma = sigma_t and alphabar = alphabar_t broadcast to (...). With singular
    values s of J, ||J||^2 the sum of their squares, ||J||_2 the largest:
    effective_rank: exp of the entropy of s / sum(s) (Roy & Vetterli 2007, "The effective rank");
    stable_rank: ||J||^2 / ||J||_2^2 (Rudelson & Vershynin 2007);
    posterior_variance: tr Cov[x_0 | x_t] / D, by the formula that heads this module;
    degrees_of_freedom: tr d(sqrt(alphabar) x_0_hat) / d x_t of the denoiser, by Stein's lemma the
    number of dimensions it leaves free (Efron 2004, "The estimation of prediction error").
    Raises ValueError when an eigenvalue is negative or not finite, or all of a spectrum are 0.
    """
    eigenvalues = np.asarray(eigenvalues, dtype=np.float64)
    largest, energy = eigenvalues.max(axis=-1), eigenvalues.sum(axis=-1)
    if not (np.isfinite(energy).all() and (eigenvalues >= 0).all() and (largest > 0).all()):
        raise ValueError("eigenvalues of J^T J must be finite, at least 0, and not all 0")
    trace, asymmetry, sigma, alphabar, _ = np.broadcast_arrays(
        *(np.asarray(each, dtype=np.float64) for each in (trace, asymmetry, sigma, alphabar)),
        largest,
    )
    D = eigenvalues.shape[-1]
    s = np.sqrt(eigenvalues)
    statistics = {
        "sigma_norm": sigma * np.sqrt(largest),
        "log_energy": np.log(sigma**2 * energy / D),
        "trace": trace.copy(),
        "effective_rank": np.exp(entr(s / s.sum(axis=-1, keepdims=True)).sum(axis=-1)),
        "stable_rank": energy / largest,
        "asymmetry": asymmetry.copy(),
        "posterior_variance": sigma**2 / alphabar * (1 - sigma * trace / D),
        "degrees_of_freedom": D - sigma * trace,
    }
    assert statistics.keys() == STATISTICS.keys()
    return statistics


def log_spectrum_distance(eigenvalues_a, eigenvalues_b):
    """Wasserstein-1 distance of the log-eigenvalues' distributions, (...), of two (..., D).

    Singular values under D * 1.2e-7 of the spectrum's largest, the rounding error of a float32 J
    (the rank threshold of numpy.linalg.matrix_rank), count as that. Raises ValueError when the
    two have different D.
    """
    spectra = [np.asarray(each, dtype=np.float64) for each in (eigenvalues_a, eigenvalues_b)]
    D = spectra[0].shape[-1]
    if spectra[1].shape[-1] != D:
        raise ValueError(f"the spectra have {D} and {spectra[1].shape[-1]} eigenvalues")
    floor = (D * np.finfo(np.float32).eps) ** 2
    a, b = (
        np.sort(np.log(np.maximum(each, floor * each.max(axis=-1, keepdims=True))), axis=-1)
        for each in spectra
    )
    return np.abs(a - b).mean(axis=-1)


class TopEigenvalues(NamedTuple):
    """values (k,) descending; right singular vectors (k, D), orthonormal; residuals (k,)."""

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: bool
    iterations: int


def top_eigenvalues(eps, x_t, t, c, k, *, seed, tol=1e-4, max_iterations=100):
    """The k largest eigenvalues of J^T J at one anchor x_t (1, ...), without computing J.

    Block Golub-Kahan-Lanczos bidiagonalisation (Golub, Luk & Overton 1981) with full
    reorthogonalisation in float64. Blocks of k vectors find eigenvalues of any multiplicity; the
    first is drawn from `seed`, an int or NumPy generator. It stops when residuals,
    ||J^T J v - lambda v|| / lambda_1, are at most `tol`; those returned are computed anew from
    the vectors, and `converged` says whether they are: check it. A residual r puts an eigenvalue
    within r lambda_1 of lambda, and typically within r^2 lambda_1 / gap. With a float32
    network about 1e-6 can be reached. Raises ValueError as `jacobian` does, unless 0 < k <= D, and
    when J is not finite.
    """
    D = x_t[0].numel()
    if len(x_t) != 1 or not 0 < k <= D or max_iterations < 1:
        raise ValueError(
            f"{len(x_t)} anchors, k = {k} and max_iterations = {max_iterations}: "
            f"need 1 anchor, 0 < k <= {D} and max_iterations > 0"
        )
    times_J, times_J_transposed = products(eps, x_t, t, c, copies=k)
    generator = np.random.default_rng(seed)

    def random(m):
        return torch.from_numpy(generator.standard_normal((D, m))).to(x_t.device)

    U = V = random(0)
    B = U.T @ V  # = U^T J V, block upper bidiagonal up to rounding
    V_j = _orthonormalised(random(k), V, random(k))
    iterations = 0
    while iterations < max_iterations and V_j.shape[1] > 0:
        iterations += 1
        J_V_j = times_J(V_j)
        if not J_V_j.isfinite().all():
            raise ValueError("J is not finite at this anchor")
        U_j = _orthonormalised(J_V_j, U, random(V_j.shape[1]))
        V, U = torch.cat((V, V_j), dim=1), torch.cat((U, U_j), dim=1)
        rows_below = B.new_zeros(V_j.shape[1], B.shape[1])
        B = torch.cat((torch.cat((B, rows_below)), U.T @ J_V_j), dim=1)
        remainder = times_J_transposed(U_j)
        width = min(k, D - V.shape[1])
        V_j = _orthonormalised(remainder[:, :width], V, random(width))

        # J v = s u and J^T u = s v + V_j S p, with p the part of u in the last block.
        P, s, Q = torch.linalg.svd(B)
        S = V_j.T @ remainder
        residuals = s[:k] * torch.linalg.norm(S @ P[-S.shape[1] :, :k], dim=0)
        if residuals.max() <= 0.9 * tol * s[0] ** 2:
            break
    values, vectors = s[:k].square(), V @ Q[:k].T
    error = times_J_transposed(times_J(vectors)) - values * vectors
    residuals = torch.linalg.norm(error, dim=0) / values[0].clamp(min=1e-300)
    results = (each.cpu().numpy() for each in (values, vectors.T, residuals))
    return TopEigenvalues(*results, bool(residuals.max() <= tol), iterations)


def _orthonormalised(block, basis, random):
    """An orthonormal basis of block (D, m), orthogonal to the orthonormal `basis` (D, p).

    Directions that a rank-deficient block lacks are random: `random` normal numbers (D, m) are
    added at the level of rounding errors. The repetition makes those orthogonal to the basis too.
    """
    block = block / torch.linalg.norm(block).clamp(min=1e-300) + 1e-15 * random
    for _ in range(2):
        block, _ = torch.linalg.qr(block - basis @ (basis.T @ block))
    return block


def products(eps, x_t, t, c, copies):
    """Functions for J @ V and J.T @ U at one anchor x_t (1, ...), of (D, m) with m <= copies.

    Matrices are float64, the products have x_t's precision. eps runs once: J^T u is a backward
    pass through its graph, and, as this is linear in u, J v a backward pass through the graph of
    J^T u (Townsend 2017, "A new trick for calculating Jacobian vector products"). On a CPU that
    takes a fourth of the time of forward-mode differentiation. Raises ValueError as `jacobian`.
    """
    _check(eps, x_t, t, c)
    with full_precision(), torch.enable_grad():
        x, y = _recorded(eps, x_t, t, c, copies, differentiated=True)
        u = torch.zeros_like(y).requires_grad_()
        (J_transposed_u,) = torch.autograd.grad(y, x, u, create_graph=True)

    def product(outputs, inputs, matrix):
        columns = torch.zeros_like(y).flatten(1)  # (copies, D)
        columns[: matrix.shape[1]] = matrix.T
        with full_precision():
            (result,) = torch.autograd.grad(
                outputs, inputs, columns.reshape(y.shape), retain_graph=True
            )
        return result.flatten(1)[: matrix.shape[1]].T.double()

    return functools.partial(product, J_transposed_u, u), functools.partial(product, y, x)


class _LeanBackward(TorchFunctionMode):
    """What runs inside is recorded for many backward passes that all want J and nothing else.

    GELU keeps its slopes, which PyTorch's computes again in every pass. If the backward pass will
    be `differentiated`, a convolution's is the transposed convolution: differentiating PyTorch's
    computes the gradient of the weight, wanted or not, and that takes most of the time.
    """

    def __init__(self, differentiated):
        super().__init__()
        self.replaced = {functional.gelu: _gelu}
        if differentiated:
            self.replaced[functional.conv2d] = _conv2d
            self.replaced[functional.conv_transpose2d] = _conv_transpose2d

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.replaced.get(function, function)(*args, **(kwargs or {}))


def _gelu(input, approximate="none"):
    x = input.detach()
    slope = torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate=approximate)
    return functional.gelu(x, approximate=approximate) + slope * (input - x)


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if isinstance(padding, str):
        return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    settings = _pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups
    return _Convolution.apply(input, weight, bias, settings)


def _conv_transpose2d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    settings = _pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups
    return _Convolution.apply(input, weight, bias, settings)


def _pair(number):
    return [number, number] if isinstance(number, int) else list(number)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, settings):
        ctx.save_for_backward(weight)
        ctx.settings, ctx.shape = settings, x.shape[2:]
        return torch.ops.aten.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, transposed, _, groups = ctx.settings
        # Pixels at the far edges that a strided convolution does not reach have gradient 0.
        missed = [0, 0]
        if not transposed:
            missed = [
                (x + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) % stride[i]
                for i, x in enumerate(ctx.shape)
            ]
        x_gradient = torch.ops.aten.convolution(
            gradient, weight, None, stride, padding, dilation, not transposed, missed, groups
        )
        return x_gradient, None, None, None
