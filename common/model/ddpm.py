"""The denoising diffusion model: schedule, loss, and noise prediction with guidance.

Conventions: t runs 1..n_T; alphabar_t is the product of alpha up to t; sigma_t =
sqrt(1 - alphabar_t); x_t = sqrt(alphabar_t) x_0 + sigma_t eps; images are in [0, 1].
Ho, Jain & Abbeel 2020 (arXiv 2006.11239); guidance: Ho & Salimans 2022 (arXiv 2207.12598).
"""

import copy

import numpy as np
import torch
from torch import nn

from common.model.unet import ContextUnet, frozen


def ddpm_schedules(beta1, beta2, n_T):
    """The schedule's float32 buffers, each (n_T + 1,), computed in float64.

    beta is linear from beta1 at index 0 to beta2 at index n_T, and alphabar accumulates from
    index 0, as in the public code. Raises ValueError unless 0 < beta1 < beta2 < 1.
    """
    if not 0 < beta1 < beta2 < 1:
        raise ValueError(f"betas must satisfy 0 < beta1 < beta2 < 1, not {beta1} and {beta2}")
    beta_t = np.linspace(beta1, beta2, n_T + 1)
    alpha_t = 1 - beta_t
    alphabar_t = np.exp(np.cumsum(np.log(alpha_t)))
    sigma_t = np.sqrt(1 - alphabar_t)
    schedule = {
        "alpha_t": alpha_t,
        "oneover_sqrta": 1 / np.sqrt(alpha_t),
        "sqrt_beta_t": np.sqrt(beta_t),
        "alphabar_t": alphabar_t,
        "sqrtab": np.sqrt(alphabar_t),
        "sqrtmab": sigma_t,
        "mab_over_sqrtmab": beta_t / sigma_t,
    }
    return {name: torch.from_numpy(values).float() for name, values in schedule.items()}


class DDPM(nn.Module):
    """A noise-predicting network with its schedule; its state dict is what checkpoints hold."""

    def __init__(self, nn_model, betas=(1e-4, 0.02), n_T=500, drop_prob=0.1):
        super().__init__()
        self.nn_model = nn_model
        self.n_T = n_T
        self.drop_prob = drop_prob
        for name, values in ddpm_schedules(*betas, n_T).items():
            self.register_buffer(name, values)

    def forward(self, x_0, c, generator, part=slice(None), loss_weight="plain"):
        """Training loss, the mean squared error of eps_theta at random times (Ho et al., eq. 14).

        x_0 (B, 1, 28, 28) in [0, 1]; c (B,) int64; generator on x_0's device. Each class is hidden
        with probability drop_prob, so that the network also learns the unconditional noise. part:
        the rows that the loss is of; random numbers are drawn for all B. loss_weight: "plain", or
        "min_snr" to weigh each image's error by `min_snr_weight`.
        """
        random = {"generator": generator, "device": x_0.device}
        t = torch.randint(1, self.n_T + 1, (len(x_0),), **random)  # n_T, where sampling starts, too
        eps = torch.randn(x_0.shape, **random)
        hidden = (torch.rand(len(x_0), **random) < self.drop_prob).float()
        x_t = self.noised(x_0, eps, t)
        x_t, c, t, hidden, eps = (each[part] for each in (x_t, c, t, hidden, eps))
        predicted = self.nn_model(x_t, c, t / self.n_T, hidden)
        if loss_weight == "plain":
            return nn.functional.mse_loss(predicted, eps)
        errors = (predicted - eps).square().mean(dim=(1, 2, 3))
        return (self.min_snr_weight(t) * errors).mean()

    def min_snr_weight(self, t):
        """min(SNR, 5) / SNR with SNR = alphabar_t / sigma_t^2, like t: the weight for a network
        that predicts eps (Hang et al. 2023, arXiv 2303.09556, section 3.4, gamma = 5)."""
        return (5 * self.sqrtmab[t].square() / self.alphabar_t[t]).clamp(max=1)

    def noised(self, x_0, eps, t):
        """x_t = sqrt(alphabar_t) x_0 + sigma_t eps for images (B, 1, 28, 28) and t (B,) int64."""
        return self.sqrtab[t, None, None, None] * x_0 + self.sqrtmab[t, None, None, None] * eps

    def eps(self, x_t, t, c, w=0.0):
        """Predicted noise under guidance w: (1 + w) eps(x_t, t, c) - w eps(x_t, t), like x_t.

        x_t (B, 1, 28, 28); t (B,) int64 in 1..n_T; c (B,) int64. At w = 0 the network runs once.
        """
        if w == 0:
            return self.nn_model(x_t, c, t / self.n_T, torch.zeros_like(t))
        hidden = torch.cat((torch.zeros_like(t), torch.ones_like(t)))
        twice = self.nn_model(
            torch.cat((x_t, x_t)), torch.cat((c, c)), torch.cat((t, t)) / self.n_T, hidden
        )
        conditional, unconditional = twice.chunk(2)
        return (1 + w) * conditional - w * unconditional

    def frozen(self):
        """A copy for inference: the same function, faster, without gradients to its weights."""
        known = {id(self.nn_model): frozen(self.nn_model)}  # stands in for a copy of the network
        return copy.deepcopy(self, known).eval()


def from_state_dict(state):
    """The DDPM whose state dict this is, on the CPU, in eval mode.

    n_feat, n_classes and n_T are read from the shapes of the weights. Raises ValueError with the
    offending key, what was expected and what was found when it is not a DDPM of this kind.
    """
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ValueError("not a state dict, whose values are tensors")
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    sizes = [("nn_model.init_conv.conv1.0.weight", 0), ("nn_model.contextembed1.model.0.weight", 1)]
    for key in [key for key, _ in sizes] + ["alpha_t"]:
        if key not in shapes:
            raise ValueError(f"key {key} is missing: not the state dict of a DDPM")
    n_feat, n_classes = (shapes[key][axis] for key, axis in sizes)
    ddpm = DDPM(ContextUnet(1, n_feat, n_classes), n_T=shapes["alpha_t"][0] - 1)
    expected = {key: tuple(value.shape) for key, value in ddpm.state_dict().items()}
    for key in sorted(expected.keys() | shapes.keys()):
        if shapes.get(key) != expected.get(key):
            raise ValueError(f"key {key}: expected {expected.get(key)}, found {shapes.get(key)}")
    for key, value in ddpm.state_dict().items():
        if state[key].dtype != value.dtype:
            raise ValueError(f"key {key}: expected {value.dtype}, found {state[key].dtype}")
        if not state[key].isfinite().all():
            raise ValueError(f"key {key}: has values that are not finite")
    if not ((state["alphabar_t"] > 0) & (state["alphabar_t"] < 1)).all():
        raise ValueError("key alphabar_t: expected values between 0 and 1")
    ddpm.load_state_dict(state)
    return ddpm.eval()
