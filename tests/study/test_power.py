"""Power against the detector, scipy, hand-computed examples and simulation."""

import numpy as np
import pytest
from scipy import stats

from common.detect import thresholds
from common.study import power

ALPHA, DIRECTION = 0.05, np.array([1, -1, 0, 1, 1])


def some_controls(L=20, G=5, seed=0):
    """Gaussian streams, but a skewed one and a constant one at the end."""
    controls = np.random.default_rng(seed).normal(3, 2, (L, G, 5))
    controls[..., 3] = np.exp(controls[..., 3])
    controls[..., 4] = 0.1
    return controls


def some_loops(controls, n=7, seed=1):
    shift = np.arange(controls.shape[1])[:, None] * np.array([2, -1.5, 1, 30, 1])
    return some_controls(n, controls.shape[1], seed) + shift


# Resamples


def test_controls_drawn_once_each_give_the_thresholds_of_the_detector():
    controls = some_controls()
    null = thresholds.of_controls(list(controls), 5, ALPHA, DIRECTION)
    assert null.by_rank.tolist() == [False, False, False, True, False]
    once = np.ones((1, 20), dtype=int)
    mean, sd = power.moments(controls, once)
    np.testing.assert_allclose(mean[0], null.mean)
    np.testing.assert_allclose(sd[0, :4], null.sd[:4])
    bounds = power.limits(controls, once, null, 100)
    loops = some_loops(controls)
    times = power.alarm_times(null, loops)
    np.testing.assert_array_equal(power.resampled_times(loops, *bounds)[0], times)
    assert (times[:, 4] == 5).all() and 0 < (times[:, :4] < 5).mean() < 1
    left_out = power.left_out_times(controls, 0.5, DIRECTION)
    null = thresholds.of_controls(list(controls), 5, 0.5, DIRECTION)
    found = power.resampled_left_out_times(controls, once, null)[0]
    np.testing.assert_array_equal(found, left_out)


def test_controls_left_out_are_judged_as_by_the_detector():
    controls = some_controls()
    controls[3, 2, 4] = 0.2  # a deviation from what is constant in the others
    times = power.left_out_times(controls, 0.5, DIRECTION)
    assert times[:, 4].tolist() == [2 if i == 3 else 5 for i in range(20)]
    alarms = thresholds.calibrate(list(controls), 5, 0.5, DIRECTION).control_alarms
    np.testing.assert_array_equal(times < 5, alarms)
    assert 0 < alarms[:, :4].mean() < 1
    assert times[:, 0].tolist() == [
        next((g for g in range(5) if one[g, 0] > limit), 5)
        for one, limit in (
            (controls[i], others.mean() + thresholds.limit(95, 5, 0.5) * others.std(ddof=1))
            for i in range(20)
            for others in [np.delete(controls, i, 0)[..., 0]]
        )
    ]


def test_loops_drawn_twice_do_not_shrink_the_sd():
    """3 controls of one generation, where an ordinary variance of the draws is 2/3 of the truth."""
    rng = np.random.default_rng(2)
    ours, ordinary = [], []
    for _ in range(4000):
        controls = rng.standard_normal((3, 2, 1))
        counts = power.draws(rng, 3, 1)
        ours.append(power.moments(controls, counts)[1].item() ** 2)
        ordinary.append(np.repeat(controls, counts[0], axis=0).var(ddof=1))
    assert np.mean(ours) == pytest.approx(1, abs=0.03)
    assert np.mean(ordinary) < 0.9


def test_an_arm_does_not_change_with_the_others():
    controls = some_controls()[..., :3]
    arms = {"full": controls[:6] + 3}
    _, alone = power.judge(controls, arms, ALPHA, DIRECTION[:3], resamples=50)
    more = {"dose": controls[:4] + 1, **arms}
    _, together = power.judge(controls, more, ALPHA, DIRECTION[:3], resamples=50)
    for name in ("control", "full"):
        for one, two in zip(alone[name], together[name], strict=True):
            np.testing.assert_array_equal(one, two)


# Counts


def test_clopper_pearson_is_that_of_scipy():
    for n in (1, 8, 20):
        low, high = power.clopper_pearson(np.arange(n + 1), n)
        for k in range(n + 1):
            expected = stats.binomtest(k, n).proportion_ci(method="exact")
            assert (low[k], high[k]) == pytest.approx((expected.low, expected.high))


def test_mcnemar_by_hand():
    first = np.array([1] * 9 + [0] + [1] * 5 + [0] * 3, dtype=bool)
    second = np.array([0] * 9 + [1] + [1] * 5 + [0] * 3, dtype=bool)
    assert power.mcnemar(first, second) == (9, 1, pytest.approx(2 * (1 + 10) / 2**10))
    assert power.mcnemar(second, first)[:2] == (1, 9)
    assert power.mcnemar(first, first) == (0, 0, 1.0)


def test_differences_without_uncertain_controls_have_dirichlet_moments():
    first = np.tile(np.array([1, 1, 1, 0, 0, 1, 1, 0], dtype=bool), (200_000, 1))
    second = np.tile(np.array([0, 0, 0, 1, 0, 1, 1, 0], dtype=bool), (200_000, 1))
    draws = power.resampled_differences(first, second, np.random.default_rng(0))
    b, c, total = 3.5, 1.5, 10  # of Dirichlet(2.5, 3.5, 1.5, 2.5)
    assert draws.mean() == pytest.approx((b - c) / total, abs=0.003)
    variance = (b + c - (b - c) ** 2 / total) / total / (total + 1)
    assert draws.var() == pytest.approx(variance, rel=0.02)


def test_holm_by_hand():
    assert power.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert power.holm([0.6, 0.9]).tolist() == [1, 1]
    assert power.holm([]).tolist() == []


# Doses


@pytest.mark.parametrize(
    ("fractions", "dose"),
    [
        ([0.2, 0.4, 0.6, 1], (0.25 * 0.5) ** 0.5),
        ([0.0, 0.0, 0.0, 1], (0.5 * 1) ** 0.5),
        ([0.5, 0.7, 0.8, 1], 0.1),
        ([0.4, 0.3, 0.7, 0.7], np.exp(np.log(0.25) + np.log(2) * 0.15 / 0.35)),  # 0.35, 0.35, 0.7
        ([0.6, 0.7, 0.8, 1], 0),
        ([0, 0.1, 0.2, 0.4], np.inf),
    ],
)
def test_half_dose(fractions, dose):
    doses, n = [0.1, 0.25, 0.5, 1], [10, 10, 10, 10]
    assert power.half_dose(doses, fractions, n) == pytest.approx(dose)
    both = power.half_dose(doses, [fractions, [0.2, 0.4, 0.6, 1]], n)
    assert both == pytest.approx([dose, 0.125**0.5])


def test_arms_of_more_loops_weigh_more_in_a_half_dose():
    """0.8 of 5 loops and 0.2 of 20 fall: both count as 0.32; then half the way to 0.68."""
    dose = power.half_dose([0.1, 0.25, 1], [0.8, 0.2, 0.68], [5, 20, 10])
    assert dose == pytest.approx((0.25 * 1) ** 0.5)


# Simulation


def a_world(rng, n, slopes, G=5):
    """Loops (n, G, S) of Gaussian streams that grow by a slope per generation."""
    return rng.standard_normal((n, G, len(slopes))) + slopes * np.arange(1, G + 1)[:, None]


SLOPES = np.array([0, 0.4, 0.6, 1])


def true_fractions(rng, n_controls):
    """Over sets of controls as well: the mean of 600 sets, by generation and stream."""
    found = []
    for _ in range(600):
        null = thresholds.of_controls(
            list(a_world(rng, n_controls, 0 * SLOPES)), 5, ALPHA, np.ones(4)
        )
        upper = null.mean + null.threshold * null.sd
        highest = np.maximum.accumulate(a_world(rng, 200, SLOPES), 1)
        found.append((highest > upper).mean(0))
    return np.mean(found, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("n_controls", "n"), [(20, 20), (10, 8), (7, 2)])
def test_intervals_hold_the_truth_as_often_as_they_say(n_controls, n):
    rng, covered, n_studies = np.random.default_rng(4), {}, 120
    fractions, effects = true_fractions(rng, n_controls), SLOPES * np.arange(1, 6)[:, None]
    for seed in range(n_studies):
        arms = {"full": a_world(rng, n, SLOPES)}
        controls = a_world(rng, n_controls, 0 * SLOPES)
        _, judged = power.judge(controls, arms, ALPHA, np.ones(4), seed, resamples=600)
        of, control = judged["full"], judged["control"]
        exact_low, exact_high = power.clopper_pearson(of.detected, n)
        for name, low, high, truth in (
            ("fraction", of.low, of.high, fractions),
            ("effect", of.effect_low, of.effect_high, effects),
            ("none", control.effect_low, control.effect_high, 0 * effects),
            ("exact", exact_low, exact_high, fractions),
            ("control", control.low[-1], control.high[-1], ALPHA),
        ):
            covered.setdefault(name, []).append((low <= truth) & (truth <= high))
    covered = {name: np.mean(of, 0) for name, of in covered.items()}
    least = {name: (of.min(), of.mean()) for name, of in covered.items()}
    print(f"{n_controls} controls, {n} loops, coverage (least, mean): {least}")
    error = np.sqrt(0.05 * 0.95 / n_studies)
    for name in ("fraction", "effect", "none", "control"):
        assert covered[name].mean() > 0.94
        assert covered[name].min() > 0.95 - 4 * error  # the least of 20
    if n == n_controls:  # what takes the thresholds for known covers too rarely
        assert covered["exact"].min() < 0.95 - 4 * error
