"""The Jacobian's spectrum written as textbooks have it, for `spectrum.py` to be timed against."""

import torch


def full_spectrum(eps, x_t, t, c, forward_per_row=False):
    """All eigenvalues of J^T J at one anchor: a loop over output pixels, then float64 svdvals.

    With `forward_per_row` as in PyTorch's tutorial on Jacobians, else with one forward pass.
    """
    x_t = x_t.clone().requires_grad_()
    y = eps(x_t, t, c).flatten()
    rows = []
    for i in range(len(y)):
        if forward_per_row:
            y = eps(x_t, t, c).flatten()
        rows.append(torch.autograd.grad(y[i], x_t, retain_graph=not forward_per_row)[0].flatten())
    return torch.linalg.svdvals(torch.stack(rows).double()).square().numpy()


def power_iteration(eps, x_t, t, c, k, n_iterations):
    """k eigenvalues of J^T J, largest first: each by power iteration orthogonal to those before."""
    _, vjp = torch.func.vjp(lambda x: eps(x, t, c), x_t)
    generator = torch.Generator().manual_seed(0)
    values, vectors = [], []
    for _ in range(k):
        v = torch.randn(x_t.shape, generator=generator)
        for _ in range(n_iterations):
            for found in vectors:
                v = v - (found * v).sum() * found
            v = v / v.norm()
            _, Jv = torch.func.jvp(lambda x: eps(x, t, c), (x_t,), (v,))
            (v,) = vjp(Jv)
        values.append(v.norm().item())
        vectors.append(v / v.norm())
    return values
