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
