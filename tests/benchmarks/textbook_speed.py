"""The stages of a generation as tutorials and the public code write them: plain and unhurried."""

import numpy as np
import scipy.linalg
import torch
from sklearn.metrics import pairwise_distances
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor


@torch.no_grad()
def sample(ddpm, c, w, noise):
    """x_0 by Ho et al.'s Algorithm 2, with and without the class in every step, whatever w is."""
    x = noise()
    c, hidden = c.repeat(2), torch.cat([torch.zeros(len(c)), torch.ones(len(c))])
    for t in range(ddpm.n_T, 0, -1):
        times = torch.full((len(c),), t / ddpm.n_T)
        with_class, without = ddpm.nn_model(x.repeat(2, 1, 1, 1), c, times, hidden).chunk(2)
        eps = (1 + w) * with_class - w * without
        z = noise() if t > 1 else 0
        x = ddpm.oneover_sqrta[t] * (x - eps * ddpm.mab_over_sqrtmab[t]) + ddpm.sqrt_beta_t[t] * z
    return x


def loader(root):
    """MNIST's training images and labels in batches of 128."""
    return DataLoader(MNIST(root, transform=ToTensor()), 128, shuffle=True, num_workers=0)


def train(ddpm, batches, lrate):
    """One pass over the batches; the loss is read after every step, for a progress bar."""
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=lrate)
    ddpm.train()
    losses = []
    for x_0, c in batches:
        t = torch.randint(1, ddpm.n_T + 1, (len(x_0),))
        eps = torch.randn_like(x_0)
        hidden = torch.bernoulli(torch.full((len(x_0),), ddpm.drop_prob))
        x_t = ddpm.noised(x_0, eps, t)
        loss = nn.functional.mse_loss(eps, ddpm.nn_model(x_t, c, t / ddpm.n_T, hidden))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def prdc(real, fake, k):
    """Naeem et al.'s four numbers from whole distance matrices in float64."""
    real_radii, fake_radii = (
        np.partition(pairwise_distances(each), k, axis=1)[:, k] for each in (real, fake)
    )
    distances = pairwise_distances(real, fake)
    inside = distances < real_radii[:, None]
    return {
        "precision": inside.any(axis=0).mean(),
        "recall": (distances < fake_radii[None]).any(axis=1).mean(),
        "density": inside.sum(axis=0).mean() / k,
        "coverage": (distances.min(axis=1) < real_radii).mean(),
    }


def fid(real, fake):
    """Heusel et al.'s distance with the square root of a product that is not symmetric."""
    (mu1, s1), (mu2, s2) = (
        (each.mean(axis=0), np.cov(each, rowvar=False)) for each in (real, fake)
    )
    root = scipy.linalg.sqrtm(s1 @ s2).real
    return ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
