"""common/detect/thresholds.py: closed forms, plain loops, counted orders and simulated nulls."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from common.detect import thresholds

ALPHA = 0.05
DIRECTION = np.array([1] * 3 + [-1] * 5 + [0] * 4)  # of 12 streams


def gaussian(rng, shape):
    """Standard normal streams with correlation 0.5 between any two of one generation."""
    common = rng.standard_normal((*shape[:-1], 1))
    return np.sqrt(0.5) * (common + rng.standard_normal(shape))


def heavy_tailed(rng, shape):
    """The same of Student's t with 3 degrees of freedom."""
    common = rng.standard_t(3, (*shape[:-1], 1))
    return np.sqrt(0.5) * (common + rng.standard_t(3, shape))


def log_normal(rng, shape):
    return np.exp(0.5 * gaussian(rng, shape))


def failing(rng, shape):
    """Gaussian, and one training in fifty fails: 10 sd the wrong way in every stream."""
    failed = rng.random((*shape[:-1], 1)) < 0.02
    return gaussian(rng, shape) + 10 * failed * np.where(DIRECTION == 0, 1, DIRECTION)


def fitted(controls, horizon=10, direction=None, alpha=ALPHA):
    direction = np.ones(np.shape(controls[0])[1]) if direction is None else direction
    return thresholds.calibrate(list(controls), horizon, alpha, direction)


# Thresholds


@pytest.mark.parametrize("n_null", [2, 5, 24, 120])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 1e-4])
def test_the_limit_of_one_generation_is_a_t_quantile(n_null, alpha):
    scale = np.sqrt(1 + 1 / n_null)
    one_sided = scale * stats.t.isf(alpha, n_null - 1)
    two_sided = scale * stats.t.isf(alpha / 2, n_null - 1)
    assert thresholds.limit(n_null, 1, alpha) == pytest.approx(one_sided, rel=1e-5)
    assert thresholds.limit(n_null, 1, alpha, two_sided=True) == pytest.approx(two_sided, rel=1e-5)


def test_the_limit_of_a_known_null_is_a_normal_quantile():
    quantile = stats.norm.ppf((1 - ALPHA) ** (1 / 6))
    assert thresholds.limit(10**7, 6, ALPHA) == pytest.approx(quantile, rel=1e-4)


@pytest.mark.parametrize(("n_null", "horizon"), [(8, 6), (24, 20)])
def test_the_limit_is_exceeded_as_often_as_it_says(n_null, horizon):
    rng = np.random.default_rng(0)
    controls = rng.standard_normal((n_null, 200_000))
    z = rng.standard_normal((horizon, 200_000)) - controls.mean(0)
    z /= controls.std(0, ddof=1)
    error = np.sqrt(ALPHA * (1 - ALPHA) / 200_000)
    one_sided = (z.max(0) > thresholds.limit(n_null, horizon, ALPHA)).mean()
    two_sided = (np.abs(z).max(0) > thresholds.limit(n_null, horizon, ALPHA, two_sided=True)).mean()
    assert abs(one_sided - ALPHA) < 3 * error and abs(two_sided - ALPHA) < 3 * error


def test_the_rank_is_exact_by_counting_orders():
    """All orders of 7 control generations and 3 others are equally likely: choose the others'."""
    for alpha in (0.2, 0.31, 0.5, 0.9):
        k = thresholds.rank(7, 3, alpha)
        exceeded = {  # of the j-th largest control, by any of the 3
            j: np.mean(
                [
                    max(others) > sorted(set(range(10)) - set(others))[-j]
                    for others in itertools.combinations(range(10), 3)
                ]
            )
            for j in range(1, 8)
        }
        assert k == max([0, *(j for j in exceeded if exceeded[j] <= alpha)])
    assert thresholds.rank(19 * 6, 6, 0.05) == 1 and thresholds.rank(19 * 6 - 1, 6, 0.05) == 0


def test_a_stream_that_is_not_gaussian_is_judged_by_rank_where_there_are_enough_controls():
    rng = np.random.default_rng(1)
    controls = log_normal(rng, (20, 6, 3))
    controls[:, :, 1] = rng.standard_normal((20, 6))
    null = thresholds.of_controls(list(controls), 6, ALPHA, [1, 1, -1])
    assert null.by_rank.tolist() == [True, False, True]
    pooled = controls.reshape(120, 3)
    z = (pooled - pooled.mean(0)) / pooled.std(0, ddof=1)
    assert null.threshold == pytest.approx(
        [z[:, 0].max(), thresholds.limit(120, 6, ALPHA), -z[:, 2].min()]
    )
    assert null.normality == pytest.approx([stats.shapiro(s).pvalue for s in pooled.T])
    assert not thresholds.of_controls(list(controls[:18]), 6, ALPHA, [1, 1, -1]).by_rank.any()


def test_controls_that_are_longer_than_the_horizon_are_all_used():
    rng = np.random.default_rng(2)
    controls = [rng.standard_normal((n, 2)) for n in (4, 9, 6)]
    null = thresholds.of_controls(controls, 3, ALPHA, [1, 1])
    pooled = np.concatenate(controls)
    np.testing.assert_allclose(null.mean, pooled.mean(0))
    np.testing.assert_allclose(null.sd, pooled.std(0, ddof=1))
    assert null.threshold[0] == thresholds.limit(19, 3, ALPHA)
    with pytest.raises(ValueError, match="shorter than the horizon of 5"):
        thresholds.of_controls(controls, 5, ALPHA, [1, 1])


# Alarms


def test_alarms_have_a_direction_and_end_with_the_horizon():
    controls = np.random.default_rng(3).standard_normal((5, 10, 4))
    calibration = fitted(controls, 8, [1, -1, 0, 0])
    loop = np.zeros((10, 4))
    loop[3:, 0], loop[2:, 1], loop[5:, 2], loop[8:, 3] = 9, -9, -9, 9
    assert calibration.onsets(loop) == [(3, 1), (2, -1), (5, -1), None]
    assert calibration.alarms(-loop)[:, :2].any() == 0  # an improvement is no alarm
    assert calibration.alarms(loop)[8:].any() == 0


def test_an_alarm_is_a_z_score_beyond_the_threshold():
    controls = np.random.default_rng(4).normal(3, 2, (4, 7, 2))
    calibration, pooled = fitted(controls, 6, [1, -1]), controls.reshape(28, 2)
    loop = np.random.default_rng(5).normal(3, 6, (6, 2))
    z = (loop - pooled.mean(0)) / pooled.std(0, ddof=1)
    np.testing.assert_allclose(calibration.z(loop), z)
    expected = np.stack([z[:, 0] > calibration.threshold[0], -z[:, 1] > calibration.threshold[1]])
    np.testing.assert_array_equal(calibration.alarms(loop) != 0, expected.T)
    assert expected.any()


# Simulated loops without change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "n_loops", "lengths", "horizon", "claimed"),
    [
        (gaussian, 5, [6], 6, 0.05),
        (gaussian, 20, [6], 6, 0.05),
        (gaussian, 20, [3], 20, 0.05),
        (gaussian, 20, [6, 20], 6, 0.05),
        (heavy_tailed, 5, [6], 6, 0.12),
        (heavy_tailed, 20, [6], 6, 0.07),
        (heavy_tailed, 20, [3], 20, 0.08),
        (log_normal, 5, [6], 6, 0.19),
        (log_normal, 20, [6], 6, 0.06),
        (failing, 5, [6], 6, 0.15),
        (failing, 20, [3], 20, 0.06),
    ],
)
def test_false_alarms_are_as_frequent_as_claimed(draw, n_loops, lengths, horizon, claimed):
    """2,000 loops and more for each: 200 sets of controls, each judging 100 loops of `horizon`
    generations, of which those are judged that the shortest control has."""
    rng, n_sets = np.random.default_rng(0), 200
    rates, above, family_above = [], [], []
    for _ in range(n_sets):
        controls = [draw(rng, (lengths[i % len(lengths)], 12)) for i in range(n_loops)]
        calibration = fitted(controls, min(horizon, *lengths), DIRECTION)
        alarms = np.array(
            [calibration.alarms(loop).any(0) for loop in draw(rng, (100, horizon, 12))]
        )
        rates.append(alarms.mean(0))
        # 100 loops measure a rate of 20 % within 4 %: count what is above beyond doubt or chance.
        above.append(rates[-1] > calibration.certified_rate)
        family_above.append(alarms.any(1).mean() > calibration.family_rate)
    rates, error = np.array(rates), np.sqrt(0.05 * 0.95 / n_sets)
    print(
        f"{draw.__name__}, {n_loops} controls of {lengths}: {rates.mean():.3f} false alarms, above "
        f"the certified rate {np.mean(above):.3f} (a stream), {np.mean(family_above):.3f} (any)"
    )
    doubt = rates.mean(1).std() / np.sqrt(n_sets)
    assert rates.mean() <= claimed + 2 * doubt
    assert draw is not gaussian or rates.mean() >= claimed - 3 * doubt  # one of four such cases
    assert np.mean(above, axis=0).max() <= 0.05 + 2 * error
    assert np.mean(family_above) <= 0.05 + 2 * error


def test_judging_beyond_the_controls_would_break_the_certified_rate():
    """Failed trainings, 20 controls of 3 generations, judged for 20: what A2 was."""
    rng, above = np.random.default_rng(1), 0
    for _ in range(40):
        calibration = fitted(failing(rng, (20, 3, 12)), 3, DIRECTION)
        beyond = dataclasses.replace(calibration, horizon=20)
        alarms = [beyond.alarms(loop).any(0)[0] for loop in failing(rng, (200, 20, 12))]
        above += np.mean(alarms) > calibration.certified_rate[0]
    assert above > 0.3 * 40


# Calibration


def test_a_control_loop_is_judged_by_the_others_only():
    controls = np.random.default_rng(8).standard_normal((5, 12, 3))
    controls[1, 4:] += 6
    calibration = fitted(controls, 9, [1, -1, 0], alpha=0.2)
    for i in range(5):
        judge = thresholds.of_controls([*controls[:i], *controls[i + 1 :]], 9, 0.2, [1, -1, 0])
        expected = judge.alarms(controls[i]).any(0)
        np.testing.assert_array_equal(calibration.control_alarms[i], expected)
    assert calibration.control_alarms[1].tolist() == [True, False, True]
    n_alarms = calibration.control_alarms.sum(0)
    assert calibration.certified_rate.tolist() == [
        thresholds.certified_rate(n, 5) for n in n_alarms
    ]
    n_any = calibration.control_alarms.any(1).sum()
    assert calibration.family_rate == thresholds.certified_rate(n_any, 5)


def test_a_constant_stream_is_not_monitored():
    rng = np.random.default_rng(9)
    controls, loop = rng.standard_normal((5, 20, 3)), rng.standard_normal((20, 3)) + 9
    controls[:, :, 1] = 0.1
    calibration = fitted(controls, 20)
    assert calibration.monitored.tolist() == [True, False, True]
    assert np.isnan(calibration.sd[1]) and np.isnan(calibration.z(loop)[:, 1]).all()
    assert calibration.onsets(loop) == [(0, 1), None, (0, 1)]
    assert not calibration.control_alarms[:, 1].any()


def test_a_stream_that_varies_in_one_control_only_is_an_alarm_of_that_one():
    controls = np.random.default_rng(10).standard_normal((5, 20, 2))
    controls[:, :, 1] = 1.0
    controls[3, 7, 1] = 0.9
    assert fitted(controls, 20).control_alarms[:, 1].tolist() == [False] * 3 + [True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_values_name_the_stream(bad):
    controls = np.random.default_rng(10).standard_normal((3, 10, 4))
    calibration, loop = fitted(controls), np.zeros((10, 4))
    controls[1, 2, 3] = loop[5, 2] = bad
    with pytest.raises(ValueError, match="controls .* stream 3"):
        fitted(controls)
    with pytest.raises(ValueError, match="loop .* stream 2"):
        calibration.onsets(loop)


def test_errors_say_what_to_do():
    controls = np.random.default_rng(11).standard_normal((2, 10, 4))
    with pytest.raises(ValueError, match="give more generations"):
        fitted(controls[:, :1], 1)
    with pytest.raises(ValueError, match="shape"):
        fitted(controls[0], 10, [1])
    with pytest.raises(ValueError, match="5 streams, the controls 4"):
        fitted(controls).z(np.zeros((10, 5)))
    with pytest.raises(ValueError, match="n_null >= 2"):
        thresholds.limit(1, 6, ALPHA)


@pytest.mark.parametrize("n_loops", [1, 5, 20, 100])
def test_certified_rate_is_clopper_pearson(n_loops):
    assert thresholds.certified_rate(0, n_loops) == pytest.approx(
        1 - 0.05 ** (1 / n_loops), rel=1e-12
    )
    assert thresholds.certified_rate(n_loops, n_loops) == 1
    for n_alarms in range(n_loops):
        bound = thresholds.certified_rate(n_alarms, n_loops, 0.9)
        assert bound == pytest.approx(stats.beta.isf(0.1, n_alarms + 1, n_loops - n_alarms))
        assert stats.binom.cdf(n_alarms, n_loops, bound) == pytest.approx(0.1)
    with pytest.raises(ValueError):
        thresholds.certified_rate(n_loops + 1, n_loops)
