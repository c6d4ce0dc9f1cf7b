"""The schedule, the training loss and the noise prediction, against their definitions."""

import numpy as np
import pytest
import torch
from scipy import stats

from common.model.ddpm import DDPM, ddpm_schedules
from common.model.unet import ContextUnet
from common.seeds import Seeds

BETAS = (1e-4, 0.02)


class Recorder(torch.nn.Module):
    """Stands for the network: notes its inputs, and answers with `answer` of them."""

    n_classes = 10

    def __init__(self, answer=lambda x, c, t, mask: torch.zeros_like(x)):
        super().__init__()
        self.answer, self.calls = answer, []

    def forward(self, x, c, t, mask):
        self.calls.append((x, c, t, mask))
        return self.answer(x, c, t, mask)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, dtype=torch.float32):
    return torch.rand(n, 1, 28, 28, generator=generator(9), dtype=dtype), torch.arange(n) % 10


def small_ddpm():
    return Seeds(0, "tests").initialised(lambda: DDPM(ContextUnet(1, 8), BETAS, 20))


# The schedule


@pytest.mark.parametrize(("n_T", "betas"), [(500, BETAS), (20, (1e-4, 0.5))])
def test_schedule_is_the_float64_one_rounded_once(n_T, betas):
    beta = [betas[0] + (betas[1] - betas[0]) * i / n_T for i in range(n_T + 1)]
    alpha = [1 - b for b in beta]
    alphabar = [alpha[0]]  # index 0 counts, too
    for a in alpha[1:]:
        alphabar.append(alphabar[-1] * a)
    beta, alpha, alphabar = map(np.array, (beta, alpha, alphabar))
    expected = {
        "alpha_t": alpha,
        "oneover_sqrta": alpha**-0.5,
        "sqrt_beta_t": beta**0.5,
        "alphabar_t": alphabar,
        "sqrtab": alphabar**0.5,
        "sqrtmab": (1 - alphabar) ** 0.5,
        "mab_over_sqrtmab": (1 - alpha) / (1 - alphabar) ** 0.5,
    }
    buffers = dict(DDPM(Recorder(), betas, n_T).named_buffers())
    assert buffers.keys() == expected.keys()
    for name, values in expected.items():
        assert buffers[name].dtype == torch.float32 and buffers[name].shape == (n_T + 1,)
        # One rounding to float32 errs by 2^-24; float32 arithmetic would err by far more.
        np.testing.assert_allclose(buffers[name].double(), values, rtol=2.0**-24 * 1.001)


@pytest.mark.parametrize("n_T", [500, 20])
def test_first_and_last_index_of_the_schedule(n_T):
    schedule = {name: values.double() for name, values in ddpm_schedules(*BETAS, n_T).items()}
    assert 1 - schedule["alpha_t"][0] == pytest.approx(1e-4, abs=1e-7)
    assert 1 - schedule["alpha_t"][n_T] == pytest.approx(0.02, abs=1e-7)
    assert schedule["alphabar_t"][0] == schedule["alpha_t"][0]
    assert schedule["alphabar_t"][1] < schedule["alpha_t"][1]


def test_what_is_no_schedule_is_refused():
    for betas in ((0.02, 1e-4), (0, 0.5), (0.1, 1), (-0.1, 0.5), (0.5, 0.5)):
        with pytest.raises(ValueError, match="betas must satisfy"):
            ddpm_schedules(*betas, 10)


def test_noised_images_follow_the_forward_process():
    ddpm = DDPM(Recorder(), BETAS, 500)
    x_0, _ = images(6, torch.float64)
    eps = torch.randn(x_0.shape, generator=generator(), dtype=torch.float64)
    t = torch.tensor([1, 2, 17, 250, 499, 500])
    alphabar = np.cumprod(1 - np.linspace(*BETAS, 501))[t]
    alphabar = torch.from_numpy(alphabar)[:, None, None, None]
    expected = alphabar.sqrt() * x_0 + (1 - alphabar).sqrt() * eps
    torch.testing.assert_close(ddpm.noised(x_0, eps, t), expected, rtol=1e-6, atol=1e-7)


# Training


def training_calls(ddpm, n_draws, seed=0):
    """What the network is asked in n_draws of training, all together."""
    x_0, c = images(500)
    random = generator(seed)
    for _ in range(n_draws // 500):
        ddpm(x_0, c, random)
    return tuple(torch.cat(parts) for parts in zip(*ddpm.nn_model.calls, strict=True))


@pytest.mark.parametrize("n_T", [8, 500])
def test_training_draws_every_time_from_1_to_n_T_equally_often(n_T):
    _, _, t, _ = training_calls(DDPM(Recorder(), BETAS, n_T), 20_000)
    t = (t * n_T).round().long()
    assert t.min() == 1 and t.max() == n_T
    counts = torch.bincount(t, minlength=n_T + 1)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_network_gets_the_time_as_a_fraction_of_n_T():
    _, _, t, _ = training_calls(DDPM(Recorder(), BETAS, 20), 1000)
    assert set(t.tolist()) == {float(np.float32(i / 20)) for i in range(1, 21)}


@pytest.mark.parametrize("drop_prob", [0, 0.1, 1])
def test_classes_are_hidden_with_the_given_probability(drop_prob):
    _, c, t, mask = training_calls(DDPM(Recorder(), BETAS, 8, drop_prob), 20_000)
    assert set(mask.tolist()) <= {0, 1}
    n_hidden = int(mask.sum())
    assert stats.binomtest(n_hidden, len(mask), drop_prob).pvalue > 1e-3
    if 0 < drop_prob < 1:  # whatever the class and the time
        for other in (c, t):
            table = np.unique(torch.stack([other, mask], 1).numpy(), axis=0, return_counts=True)[1]
            assert stats.chi2_contingency(table.reshape(-1, 2)).pvalue > 1e-3


def test_the_loss_is_the_mean_squared_error_of_the_noise():
    """By hand, from the noise that the network's own input holds."""
    ddpm = DDPM(Recorder(lambda x, c, t, mask: 0.5 * x + t[:, None, None, None]), BETAS, 500)
    x_0, c = images(200)
    loss = ddpm(x_0, c, generator())
    [(x_t, labels, t, _)] = ddpm.nn_model.calls
    assert torch.equal(labels, c)
    alphabar = np.cumprod(1 - np.linspace(*BETAS, 501))[(t * 500).round().long()]
    alphabar = torch.from_numpy(alphabar)[:, None, None, None]
    eps = (x_t - alphabar.sqrt() * x_0) / (1 - alphabar).sqrt()
    late = t > 0.1  # where dividing by sigma_t does not magnify rounding
    assert abs(eps[late].mean()) < 4 / eps[late].numel() ** 0.5
    assert stats.kstest(eps[late].flatten()[::7], "norm").pvalue > 1e-3

    answer = 0.5 * x_t.double() + t.double()[:, None, None, None]
    assert loss.item() == pytest.approx(((answer - eps) ** 2).mean().item(), rel=1e-5)


@pytest.mark.parametrize(("n_T", "betas"), [(500, BETAS), (20, (1e-4, 0.5))])
def test_min_snr_weights_are_those_of_the_formula(n_T, betas):
    alphabar = np.cumprod(1 - np.linspace(*betas, n_T + 1))
    snr = alphabar / (1 - alphabar)
    found = DDPM(Recorder(), betas, n_T).min_snr_weight(torch.arange(n_T + 1))
    np.testing.assert_allclose(found.numpy(), np.minimum(snr, 5) / snr, rtol=1e-5)
    assert found[-1] == 1 and found[1] < found[2] < 0.5


def test_the_weighted_loss_weighs_each_images_error():
    ddpm = DDPM(Recorder(lambda x, c, t, mask: 0.5 * x), BETAS, 500)
    x_0, c = images(200)
    loss = ddpm(x_0, c, generator(), loss_weight="min_snr")
    [(x_t, _, t, _)] = ddpm.nn_model.calls
    t = (t * 500).round().long()
    alphabar = torch.from_numpy(np.cumprod(1 - np.linspace(*BETAS, 501)))[t]
    eps = (x_t - alphabar.sqrt()[:, None, None, None] * x_0) / (1 - alphabar).sqrt()[
        :, None, None, None
    ]
    errors = (0.5 * x_t - eps).square().mean(dim=(1, 2, 3))
    weights = (5 * (1 - alphabar) / alphabar).clamp(max=1)
    assert loss.item() == pytest.approx((weights * errors).mean().item(), rel=1e-3)
    assert loss < ddpm(x_0, c, generator())


def test_each_image_gets_noise_of_its_own_from_the_generator():
    runs = []
    for seed in (0, 0, 1):
        ddpm = DDPM(Recorder(), BETAS, 500)
        torch.manual_seed(seed + len(runs))
        ddpm(torch.zeros(20, 1, 28, 28), torch.zeros(20).long(), generator(seed))
        runs.append(ddpm.nn_model.calls[0])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])
    correlation = torch.corrcoef(runs[0][0].reshape(20, -1)) - torch.eye(20)
    assert correlation.abs().max() < 5 / 784**0.5


def test_the_loss_reaches_every_weight():
    ddpm = small_ddpm().train()
    ddpm(*images(16), generator()).backward()
    without = [name for name, p in ddpm.named_parameters() if p.grad is None]
    assert without == []


# Noise prediction under guidance

T = torch.tensor([1, 7, 20])


def predicted(w, answer=None):
    network = Recorder(answer) if answer else Recorder()
    ddpm = DDPM(network, BETAS, 20)
    x_t, c = images(3, torch.float64)
    return ddpm.eps(x_t, T, c, w), network.calls, x_t, c


def test_without_guidance_the_network_runs_once_on_the_classes_alone():
    _, calls, x_t, c = predicted(0)
    [(x, classes, t, mask)] = calls
    assert torch.equal(x, x_t) and torch.equal(classes, c) and not mask.any()
    torch.testing.assert_close(t, T / 20)


def test_under_guidance_it_runs_with_and_without_the_classes():
    _, calls, x_t, c = predicted(0.5)
    [(x, classes, t, mask)] = calls
    assert torch.equal(x, torch.cat([x_t, x_t])) and torch.equal(classes, torch.cat([c, c]))
    assert mask.tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(t, torch.cat([T, T]) / 20)


@pytest.mark.parametrize("w", [0, 0.0, 0.25, 2])
def test_guidance_is_one_plus_w_times_conditional_less_w_times_unconditional(w):
    def answer(x, c, t, mask):
        conditional = torch.sin(x) + c[:, None, None, None]
        return torch.where(mask[:, None, None, None] == 1, torch.cos(x), conditional)

    found, _, x_t, c = predicted(w, answer)
    expected = (1 + w) * (torch.sin(x_t) + c[:, None, None, None]) - w * torch.cos(x_t)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_guidance_treats_images_one_by_one():
    """With the shipped network: alone or in a batch, an image's noise is the same."""
    ddpm = small_ddpm().eval()
    x_t, c = images(3)
    with torch.inference_mode():
        together = ddpm.eps(x_t, T, c, 1.5)
        alone = torch.cat([ddpm.eps(x_t[[i]], T[[i]], c[[i]], 1.5) for i in range(3)])
        fast = ddpm.frozen().eps(x_t, T, c, 1.5)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast, together, rtol=1e-3, atol=1e-4)
