"""Sampling: the right distribution, and noise that depends on nothing but the seed."""

import numpy as np
import pytest
import torch
from small import sample, small_ddpm, stopped_and_continued

from common.data import quantised
from common.machine.errors import UserError
from common.model.ddpm import DDPM
from common.model.sample import (
    BlockNoise,
    balanced_labels,
    ddim_chain,
    ddpm_chain,
    fast_eps,
    plain_eps,
)
from common.model.unet import ContextUnet
from common.seeds import Seeds


class GaussianNoise(torch.nn.Module):
    """The exact eps of x_0 ~ N(mean, diag(variance)): eps = sigma (x_t - sqrt(ab) m) / var(x_t)."""

    def __init__(self, n_T, betas, mean, variance):
        super().__init__()
        self.n_classes = 10
        self.mean, self.variance = mean, variance
        self.alphabar = torch.from_numpy(np.cumprod(1 - np.linspace(*betas, n_T + 1))).float()
        self.n_T = n_T

    def forward(self, x, c, t, context_mask):
        alphabar = self.alphabar[(t * self.n_T).round().long()][:, None, None, None]
        variance = alphabar * self.variance + 1 - alphabar
        return (1 - alphabar).sqrt() * (x - alphabar.sqrt() * self.mean) / variance


def test_sampler_reproduces_a_known_gaussian():
    n_T, betas, n = 400, (1e-4, 0.025), 300
    mean = torch.linspace(-1, 1, 784).reshape(28, 28)
    variance = torch.linspace(0.05, 2, 784).flip(0).reshape(28, 28)
    ddpm = DDPM(GaussianNoise(n_T, betas, mean, variance), betas, n_T)
    generator = torch.Generator().manual_seed(0)
    eps = plain_eps(ddpm, balanced_labels(n), 0)
    x_0 = ddpm_chain(ddpm, eps, lambda: torch.randn(n, 1, 28, 28, generator=generator))
    # Each pixel is a chain of its own: z-scores of its mean and variance are standard normal.
    z_mean = (x_0.mean(0)[0] - mean) / (variance / n).sqrt()
    z_variance = (x_0.var(0)[0] / variance - 1) / (2 / (n - 1)) ** 0.5
    for z in (z_mean, z_variance):
        assert abs(z.mean()) < 4 / 784**0.5 + 0.1  # 0.1: n_T finite steps, not infinitely many
        assert 0.9 < z.std() < 1.1
    # Pixels are independent: sample correlations have the size that chance gives them.
    correlation = torch.corrcoef((x_0[:, 0] - mean).reshape(n, -1).T)
    off_diagonal = correlation[~torch.eye(784, dtype=torch.bool)]
    assert off_diagonal.std() == pytest.approx((n - 1) ** -0.5, rel=0.02)


def test_noise_and_labels_do_not_depend_on_the_batch_size(tmp_path):
    ddpm, n = small_ddpm(n_T=6), 130
    chains = {max_c: recorded_chains(ddpm.frozen(), n, max_c) for max_c in (7, 100, 500)}
    for max_c in (7, 500):
        assert torch.equal(chains[max_c][0], chains[100][0])  # x_T, bit for bit
        torch.testing.assert_close(chains[max_c][1], chains[100][1], atol=1e-4, rtol=0)
    for max_c in (7, 100, 500):
        data = sample(ddpm, n, tmp_path, max_c=max_c)
        assert torch.equal(data.labels, balanced_labels(n))
        assert torch.bincount(data.labels).tolist() == [13] * 10
        assert (data.images.int() - quantised(chains[100][1]).int()).abs().max() <= 1


def recorded_chains(ddpm, n, max_c):
    """x_T and x_0 of n samples in batches of max_c, before quantisation."""
    seeds, first, last = Seeds(0, "tests", 0, 4), [], []

    def recorded(eps):
        def recording(x_t, t):
            if t == ddpm.n_T:
                first.append(x_t.clone())
            return eps(x_t, t)

        return recording

    with torch.inference_mode():
        for start in range(0, n, max_c):
            stop = min(start + max_c, n)
            noise = BlockNoise(start, stop, lambda b: seeds.torch_generator("samples", b))
            eps = fast_eps(ddpm, balanced_labels(n)[start:stop], 0)
            last.append(ddpm_chain(ddpm, recorded(eps), noise))
    return torch.cat(first), torch.cat(last)


def test_labels_are_balanced_for_any_number():
    for n in (1, 10, 95, 1003):
        counts = torch.bincount(balanced_labels(n), minlength=10)
        assert counts.sum() == n and counts.max() - counts.min() <= 1


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("w", "per_image"), [(0, 1), (0.5, 2)])
def test_the_unconditional_pass_runs_only_under_guidance(tmp_path, monkeypatch, w, per_image, fast):
    ddpm, seen, predicted = small_ddpm(), [], ContextUnet.predicted

    def counted(network, x, context, time):
        seen.append(len(x))
        return predicted(network, x, context, time)

    monkeypatch.setattr(ContextUnet, "predicted", counted)
    sample(ddpm, 20, tmp_path, w=w, fast=fast)
    assert sum(seen) == 20 * per_image * ddpm.n_T


def test_sampling_uses_running_statistics_and_leaves_them_alone(tmp_path):
    ddpm = small_ddpm()
    in_eval = sample(ddpm, 30, tmp_path)
    before = {key: value.clone() for key, value in ddpm.state_dict().items()}
    in_train = sample(ddpm.train(), 30, tmp_path)
    assert torch.equal(in_train.images, in_eval.images)
    assert all(torch.equal(value, before[key]) for key, value in ddpm.state_dict().items())


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("w", [0, 1.5])
def test_a_fast_chain_equals_that_of_the_plain_network(w, sampler):
    """With more images than the CPU takes at a time, in unequal parts."""
    ddpm, c, ends = small_ddpm(), balanced_labels(60), []
    for eps in (plain_eps(ddpm, c, w), fast_eps(ddpm.frozen(), c, w)):
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            noise = lambda g=generator: torch.randn(60, 1, 28, 28, generator=g)  # noqa: E731
            chain, rest = (ddim_chain, [7]) if sampler == "ddim" else (ddpm_chain, [])
            ends.append(chain(ddpm, eps, noise, *rest))
    assert (ends[0] - ends[1]).abs().max() < 1e-4
    assert ends[0].std() > 1e-3


@pytest.mark.parametrize("how", [{"w": 1}, {"sampler": "ddim", "sample_steps": 5}])
def test_the_constant_fast_changes_rounding_only(tmp_path, how):
    ddpm = small_ddpm()
    fast, plain = (sample(ddpm, 30, tmp_path, fast=fast, **how) for fast in (True, False))
    assert (fast.images.int() - plain.images.int()).abs().max() <= 1
    assert fast.images.float().std() > 1


@torch.inference_mode()
def test_embeddings_are_computed_once_for_classes_and_once_a_step_for_times(monkeypatch):
    ddpm, rows = small_ddpm(), []
    for name in ("contextembed1", "timeembed1"):
        network = getattr(ddpm.nn_model, name)
        network.register_forward_pre_hook(lambda _, x, name=name: rows.append((name, len(x[0]))))
    eps = fast_eps(ddpm, balanced_labels(40), 1)
    ddpm_chain(ddpm, eps, lambda: torch.zeros(40, 1, 28, 28))
    assert rows == [("contextembed1", 80)] + [("timeembed1", 1)] * ddpm.n_T


# DDIM


@torch.inference_mode()
def test_ddim_follows_the_flow_that_carries_noise_to_a_known_gaussian():
    """Every DDIM step is linear in (x_t - sqrt(alphabar_t) m), and where steps are many the chain
    is x_0 = m + sqrt(v / (alphabar_T v + sigma_T^2)) (x_T - sqrt(alphabar_T) m)."""
    n_T, betas = 1000, (1e-5, 0.02)
    mean = torch.linspace(-1, 1, 784).reshape(28, 28)
    variance = torch.linspace(0.05, 2, 784).flip(0).reshape(28, 28)
    ddpm = DDPM(GaussianNoise(n_T, betas, mean, variance), betas, n_T).double()
    eps = plain_eps(ddpm, torch.zeros(3, dtype=torch.int64), 0)
    x_T = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    alphabar = ddpm.alphabar_t[n_T]
    exact = mean + (variance / (alphabar * variance + 1 - alphabar)).sqrt() * (
        x_T - alphabar.sqrt() * mean
    )
    errors = {
        steps: (ddim_chain(ddpm, eps, lambda: x_T, steps) - exact).abs().max().item()
        for steps in (25, 50, 100, 1000)
    }
    assert errors[1000] < 0.02
    for few, more in ((25, 50), (50, 100), (100, 1000)):
        assert errors[more] < 0.7 * errors[few], errors


@torch.inference_mode()
def test_ddim_steps_are_those_of_the_paper():
    """Against the product of the linear maps that equation 12 gives for a Gaussian, in NumPy."""
    n_T, betas, steps, v = 40, (1e-4, 0.25), 5, 0.3
    mean, variance = torch.zeros(28, 28), torch.full((28, 28), v)
    ddpm = DDPM(GaussianNoise(n_T, betas, mean, variance), betas, n_T)
    alphabar = np.cumprod(1 - np.linspace(*betas, n_T + 1))
    times, factor = [40, 30, 20, 11, 1], 1.0  # 20.5 and 10.75 of the even spacing, rounded
    for t, s in zip(times, [*times[1:], None], strict=True):
        sigma = np.sqrt(1 - alphabar[t])
        predicted = sigma / (alphabar[t] * v + 1 - alphabar[t])  # eps for x_t = 1
        x_0 = (1 - sigma * predicted) / np.sqrt(alphabar[t])
        following = 1.0 if s is None else alphabar[s]
        factor *= np.sqrt(following) * x_0 + np.sqrt(1 - following) * predicted
    noise = iter([torch.ones(1, 1, 28, 28)])  # there is no more
    eps = plain_eps(ddpm, torch.zeros(1).long(), 0)
    x_0 = ddim_chain(ddpm, eps, lambda: next(noise), steps)
    assert x_0.mean().item() == pytest.approx(factor, rel=1e-5)
    assert x_0.std() < 1e-6


def test_ddim_depends_on_its_steps(tmp_path):
    ddpm = small_ddpm()
    ten, again, five = (
        sample(ddpm, 10, tmp_path, sampler="ddim", sample_steps=steps) for steps in (10, 10, 5)
    )
    assert torch.equal(ten.images, again.images) and not torch.equal(ten.images, five.images)
    for steps in (0, 13):
        with pytest.raises(ValueError, match=f"sample_steps = {steps} is not between 1 and n_T"):
            ddim_chain(ddpm, None, None, steps)


CHOICES = [(5, 0.0), (5, 0.5), (12, 1.0), (1, 1.0), (40, 0.3)]  # sample_steps of 40, eta


@pytest.mark.parametrize(("steps", "eta"), CHOICES)
def test_with_the_true_noise_every_step_has_the_exact_marginal(steps, eta):
    """x_t ~ N(sqrt(alphabar_t) x_0, sigma_t^2), the invariant that Song et al. chose eq. 12 for."""
    ddpm = DDPM(torch.nn.Identity(), (1e-4, 0.25), 40)
    generator = torch.Generator().manual_seed(1)
    x_0, seen = torch.rand(100, 1, 28, 28, generator=generator), {}
    x_T = [ddpm.sqrtab[40] * x_0 + ddpm.sqrtmab[40] * normal(generator)]

    def eps(x_t, t):
        seen[t] = (x_t - ddpm.sqrtab[t] * x_0) / ddpm.sqrtmab[t]
        return seen[t]

    def noise():
        return x_T.pop() if x_T else normal(generator)

    found = ddim_chain(ddpm, eps, noise, steps, eta)
    torch.testing.assert_close(found, x_0, atol=1e-4, rtol=0)
    assert len(seen) == steps
    for z in seen.values():  # 78,400 numbers: standard errors of 0.0036 and 0.0051
        assert abs(z.mean()) < 0.018 and abs(z.var() - 1) < 0.025
    if eta == 0:
        times = list(seen)
        torch.testing.assert_close(seen[times[0]], seen[times[-1]], atol=1e-4, rtol=0)
    elif steps > 1:  # what a step has lost of the first noise, another has not brought back
        first, last = seen[40].flatten(), seen[min(seen)].flatten()
        assert torch.corrcoef(torch.stack([first, last]))[0, 1] < 0.95


def normal(generator, n=100):
    return torch.randn(n, 1, 28, 28, generator=generator)


@torch.inference_mode()
@pytest.mark.parametrize(("steps", "eta"), CHOICES)
def test_a_known_gaussian_comes_out_with_the_variance_of_the_closed_recursion(steps, eta):
    """The ideal denoiser of N(0, v) makes each step linear: Var[x_s] follows from Var[x_t]."""
    n_T, betas, v = 40, (1e-4, 0.25), 0.4
    ddpm = DDPM(GaussianNoise(n_T, betas, torch.zeros(28, 28), torch.full((28, 28), v)), betas, n_T)
    alphabar = np.cumprod(1 - np.linspace(*betas, n_T + 1))
    times = np.linspace(n_T, 1, steps).round().astype(int)
    variance = 1.0
    for t, s in zip(times, [*times[1:], None], strict=True):
        a_t = alphabar[t]
        eps = np.sqrt(1 - a_t) / (a_t * v + 1 - a_t)  # for x_t = 1
        x_0 = (1 - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t)
        if s is None:
            variance *= x_0**2
            break
        sigma = eta * np.sqrt((1 - alphabar[s]) / (1 - a_t) * (1 - a_t / alphabar[s]))  # eq. 16
        kept = np.sqrt(alphabar[s]) * x_0 + np.sqrt(1 - alphabar[s] - sigma**2) * eps
        variance = kept**2 * variance + sigma**2
    generator = torch.Generator().manual_seed(2)
    c = torch.zeros(100).long()
    x_0 = ddim_chain(ddpm, plain_eps(ddpm, c, 0), lambda: normal(generator), steps, eta)
    assert x_0.var().item() == pytest.approx(variance, rel=0.025)  # 5 standard errors


@pytest.mark.parametrize(
    ("n_T", "beta2", "steps"),
    [(500, 0.02, 25), (500, 0.06, 50), (1000, 0.04, 25), (1000, 0.02, 2), (2000, 0.02, 50)],
)
def test_the_share_of_new_noise_is_exact_where_almost_nothing_is_left_of_the_image(
    n_T, beta2, steps
):
    """x_t is all noise and starts at 0, and the noise of the first step is 1."""
    ddpm, seen = DDPM(torch.nn.Identity(), (1e-4, beta2), n_T), {}
    draws = iter([torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)])

    def eps(x_t, t):
        seen[t] = x_t
        return x_t / ddpm.sqrtmab[t]

    ddim_chain(ddpm, eps, lambda: next(draws, torch.zeros(())), steps, eta=1.0)
    t, s, *_ = seen
    alphabar = np.cumprod(1 - np.linspace(1e-4, beta2, n_T + 1))
    expected = np.sqrt((1 - alphabar[s]) / (1 - alphabar[t]) * (1 - alphabar[t] / alphabar[s]))
    assert seen[s].unique().item() == pytest.approx(expected, rel=1e-3)


def test_all_steps_with_eta_1_have_the_public_chains_mean():
    """Without noise after the first, x_t is the same at every t above 0."""
    ddpm, n_T = DDPM(torch.nn.Identity(), (1e-4, 0.25), 40), 40
    x_T = normal(torch.Generator().manual_seed(3), 4)
    paths = []
    for chain, rest in ((ddpm_chain, []), (ddim_chain, [n_T, 1.0])):
        path, draws = {}, iter([x_T])

        def eps(x_t, t, path=path):
            path[t] = x_t
            return torch.tanh(x_t) * t / n_T

        def noise(draws=draws):
            return next(draws, torch.zeros(()))

        chain(ddpm, eps, noise, *rest)
        paths.append(path)
    assert paths[0].keys() == paths[1].keys() == set(range(1, n_T + 1))
    for t, x_t in paths[0].items():
        torch.testing.assert_close(paths[1][t], x_t, atol=1e-4, rtol=1e-4)


def test_the_estimate_of_the_image_is_clipped_and_its_noise_taken_anew():
    ddpm = DDPM(torch.nn.Identity(), (1e-4, 0.25), 40)
    x_T, seen = torch.tensor([-9.0, 0.3, 9.0]).reshape(3, 1, 1, 1), []

    def nothing(x_t, t):
        seen.append(x_t)
        return torch.zeros_like(x_t)

    found = ddim_chain(ddpm, nothing, lambda: x_T, 2, clip_x0=True)
    (x_0, x_1), (a_T, a_1) = seen, (ddpm.alphabar_t[t].double() for t in (40, 1))
    clipped = (x_0.double() / a_T.sqrt()).clamp(0, 1)
    noise = (x_0.double() - a_T.sqrt() * clipped) / (1 - a_T).sqrt()
    expected = a_1.sqrt() * clipped + (1 - a_1).sqrt() * noise
    torch.testing.assert_close(x_1.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, (x_1 / ddpm.sqrtab[1]).clamp(0, 1))
    assert found[0] == 0 and found[2] == 1
    free = ddim_chain(ddpm, nothing, lambda: x_T, 2)
    assert free[0] < 0 and free[2] > 1


def test_stochastic_samples_do_not_depend_on_the_batch_size(tmp_path):
    how = {"sampler": "ddim", "sample_steps": 5, "eta": 1.0, "clip_x0": True}
    whole = sample(small_ddpm(), 130, tmp_path, max_c=130, **how)
    parts = sample(small_ddpm(), 130, tmp_path, max_c=37, **how)
    assert (whole.images.int() - parts.images.int()).abs().max() <= 1
    with pytest.raises(ValueError, match="eta = 1.1 is not between 0 and 1"):
        ddim_chain(small_ddpm(), None, None, 5, 1.1)


@pytest.mark.parametrize("how", [{}, {"sampler": "ddim", "sample_steps": 5, "eta": 1.0}])
def test_a_stopped_sampling_continues_with_the_same_images(tmp_path, monkeypatch, how):
    ddpm = small_ddpm()
    whole = sample(ddpm, 130, tmp_path, max_c=30, **how)
    continued = stopped_and_continued(ddpm, tmp_path, monkeypatch, **how)
    assert torch.equal(continued.images, whole.images)


def test_the_seed_and_the_generation_change_the_samples(tmp_path):
    ddpm = small_ddpm()
    images = [
        sample(ddpm, 10, tmp_path, seeds=Seeds(*key)).images
        for key in ((0, "a", 0, 1), (1, "a", 0, 1), (0, "b", 0, 1), (0, "a", 0, 2))
    ]
    assert all(not torch.equal(images[0], other) for other in images[1:])


def test_samples_that_are_not_finite_stop_the_run_before_they_are_written(tmp_path):
    ddpm = small_ddpm()
    ddpm.nn_model.out[3].bias.data *= np.nan
    with pytest.raises(UserError, match="the model's samples are not finite; retrain it"):
        sample(ddpm, 20, tmp_path)
    assert not list(tmp_path.iterdir())
