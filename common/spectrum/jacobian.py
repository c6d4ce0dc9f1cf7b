"""The spectrum of J^T J, J[i, j] = d eps_i / d x_j: how the predicted noise answers to its input.

By Tweedie's second-order formula Cov[x_0 | x_t] = (sigma_t^2 / alphabar_t) (I - sigma_t J) for an
ideal denoiser: J is symmetric, sigma_t J has eigenvalue 1 in directions in which x_0 is certain and
less in those in which it is free (Manor & Michaeli 2309.13598; Kadkhodaie et al. 2310.02557).

`eps(x_t, t, c)` is any function of (B, ...) images that treats each image by itself, with values
like x_t: `DDPM.eps` in eval mode, fastest of a `frozen` network. D is the number of an image's
pixels. What is computed from J, and all that is small, is a NumPy array of float64.
"""

import functools
import math

import numpy as np
import torch
from scipy.special import entr
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from common.machine.device import full_precision

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


def _recorded(eps, x_t, t, c, copies):
    """`copies` copies of one anchor x_t (1, ...), and eps of them with the graph between."""
    x = x_t.detach().repeat(copies, *[1] * (x_t.dim() - 1)).requires_grad_()
    with torch.enable_grad(), _KeptSlopes():
        y = eps(x, t.expand(copies), c.expand(copies))
    if y.shape != x.shape:
        raise ValueError(f"eps has shape {tuple(y.shape)} where x_t has {tuple(x.shape)}")
    if not y.requires_grad:
        raise ValueError("eps does not depend on x_t differentiably: is it under torch.no_grad?")
    return x, y


def jacobian(eps, x_t, t, c, chunk=16):
    """The exact J (B, D, D) at each anchor, J[b, i, j] = d eps_i / d x_j, with x_t's dtype.

    Arguments, memory and errors as for `vector_jacobian_products`, of which J is the case u = I.
    """
    D = x_t[0].numel()
    identity = torch.eye(D, dtype=x_t.dtype, device=x_t.device)
    return vector_jacobian_products(eps, x_t, t, c, identity.expand(len(x_t), D, D), chunk)


def vector_jacobian_products(eps, x_t, t, c, u, chunk=16):
    """u J (B, K, D), rows u_k^T J at each anchor, with x_t's dtype, from K backward passes each.

    x_t (B, ...) floats; t (B,) and c (B,) int64; u (B, K, D). Memory holds the activations of
    `chunk` images: raise it on a GPU. Neither it nor the other anchors change an anchor's result
    (`chunk` up to rounding). Raises ValueError for wrong shapes, when eps records no gradient, and
    in train mode where eps is a module or a method of one: inside a lambda nobody sees that.
    """
    _check(eps, x_t, t, c)
    D = x_t[0].numel()
    if u.dim() != 3 or len(u) != len(x_t) or u.shape[2] != D or u.shape[1] == 0:
        raise ValueError(f"u has shape {tuple(u.shape)}, not ({len(x_t)}, K, {D})")
    K = u.shape[1]
    chunk = math.ceil(K / math.ceil(K / chunk))  # chunks of one size, as nearly as can be
    products = x_t.new_empty(u.shape)
    with full_precision():
        for anchor in range(len(x_t)):
            only = slice(anchor, anchor + 1)
            x, y = _recorded(eps, x_t[only], t[only], c[only], chunk)
            # One forward pass serves all rows; the last chunk may repeat some, so sizes are equal.
            for first in (*range(0, K - chunk, chunk), K - chunk):
                rows = slice(first, first + chunk)
                cotangents = u[anchor, rows].to(y).view_as(y)
                (gradients,) = torch.autograd.grad(y, x, cotangents, retain_graph=True)
                products[anchor, rows] = gradients.reshape(chunk, D)
    return products


def in_float64(J):
    """J (B, D, D) in float64 on the CPU. Raises ValueError unless it is finite."""
    finite = J.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"J is not finite at anchors {(~finite).nonzero().flatten().tolist()}")
    return J.double().cpu()


def eigenvalues(J):
    """All eigenvalues of J^T J, (B, D) descending, for J (B, D, D).

    They are J's squared singular values in float64; decomposing J^T J would lose half the digits
    of the small ones. Raises ValueError when J is not finite.
    """
    return torch.linalg.svdvals(in_float64(J)).square().numpy()


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


class _KeptSlopes(TorchFunctionMode):
    """Where this is active, `_gelu` is called in place of PyTorch's, which computes its slope again
    in every backward pass: the rows of J are many passes through one graph."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        called = _gelu if function is functional.gelu else function
        return called(*args, **(kwargs or {}))


def _gelu(input, approximate="none"):
    """GELU, recorded as its tangent at x: value + slope * (input - x), whose last factor is 0 and
    has derivative 1. Value and slope are constants, so a backward pass is one product."""
    x = input.detach()
    value = functional.gelu(x, approximate=approximate)
    slope = torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate=approximate)
    return value + slope * (input - x)
