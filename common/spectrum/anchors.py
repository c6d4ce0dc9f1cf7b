"""Where models are differentiated: images that are the same for every generation and every run.

Each has its own label, and one fixed noise per time t, so that what differs is the model.
"""

from typing import NamedTuple

import torch

from common.data import balanced_order
from common.machine.errors import UserError
from common.seeds import Seeds
from common.spectrum import MOST_STEPS


class Anchors(NamedTuple):
    """Images to differentiate at: x_0 float (A, 1, 28, 28), labels and indices int64 (A,)."""

    x_0: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    seeds: Seeds

    def noise(self, t):
        """Standard normal (A, 1, 28, 28), a function of (seed, image, t) and of nothing else."""
        return torch.stack(
            [
                torch.randn(
                    self.x_0.shape[1:],
                    generator=self.seeds.torch_generator("noise", MOST_STEPS * i + t),
                )
                for i in self.index.tolist()
            ]
        )

    def noised(self, ddpm, t, device):
        """x_t (A, 1, 28, 28), t (A,), labels (A,) and the noise in x_t, on the device."""
        c, noise = self.labels.to(device), self.noise(t).to(device)
        t_ = torch.full_like(c, t)
        return ddpm.noised(self.x_0.to(device), noise, t_), t_, c, noise


def select(source, seed, n_anchors, skip=0):
    """n_anchors of the LabelledImages `source`, as many of each class, after the first `skip` of
    the same order."""
    seeds = Seeds(seed, "anchors")
    order = balanced_order(source.labels, seeds.numpy_generator("order"))
    if skip + n_anchors > len(order):
        raise UserError(
            f"{skip + n_anchors} images are needed, but there are {len(order)} in equal classes"
        )
    index = order[skip : skip + n_anchors]
    images, labels = source.subset(index)
    return Anchors(images.float() / 255, labels, index, seeds)
