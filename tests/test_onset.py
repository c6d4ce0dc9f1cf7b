"""common/onset.py against closed forms, plain loops, run-length theory and simulated nulls."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common import onset

ALPHA = 0.05


def independent(rng, shape):
    """Standard normal streams."""
    return rng.standard_normal(shape)


def correlated(rng, shape):
    """Standard normal streams with correlation 0.9 between any two of one generation."""
    common = rng.standard_normal((*shape[:-1], 1))
    return np.sqrt(0.9) * common + np.sqrt(0.1) * rng.standard_normal(shape)


def skewed(rng, shape):
    """Log-normal streams."""
    return rng.lognormal(0, 0.5, shape)


def false_alarms(draw, n_loops, horizon=20, threshold=None, n_sets=250, n_streams=12, seed=0):
    """Rate of alarms of 8 null loops for each of n_sets fresh sets of controls (n_loops, 20, S).

    threshold, a function of the Null, replaces the shipped threshold. Returns rate and its
    binomial standard error at ALPHA.
    """
    rng = np.random.default_rng(seed)
    n_alarms = 0
    for _ in range(n_sets):
        null = onset.fit(draw(rng, (n_loops, 20, n_streams)), horizon, ALPHA)
        h = null.threshold if threshold is None else threshold(null)
        for loop in draw(rng, (8, horizon, n_streams)):
            n_alarms += onset.first_alarm(null.statistic(loop), h) is not None
    n_judged = 8 * n_sets
    return n_alarms / n_judged, np.sqrt(ALPHA * (1 - ALPHA) / n_judged)


def known_null(threshold, n_streams):
    """A Null whose mean 0 and sd 1 are known, with a threshold as given."""
    ones = np.ones(n_streams)
    return onset.Null(0 * ones, ones, ones > 0, threshold, {}, ALPHA, 0.5, 1000)


# CUSUM


def test_cusum_equals_a_plain_loop():
    z = np.random.default_rng(0).normal(0.2, 1.5, (30, 4))
    statistic = onset.cusum(z, 0.3)
    for s in range(4):
        up = down = 0.0
        for g in range(30):
            up = max(0.0, up + z[g, s] - 0.3)
            down = max(0.0, down - z[g, s] - 0.3)
            assert statistic[g, s] == max(up, down)


@pytest.mark.parametrize("level", [2.0, -2.0])
def test_cusum_of_a_constant_grows_linearly(level):
    expected = np.arange(1, 11) * (2.0 - 0.5)
    np.testing.assert_allclose(onset.cusum(np.full(10, level)), expected, rtol=1e-15)
    assert not onset.cusum(np.full(10, level / 4)).any()


def test_first_alarm_is_the_first_strict_excess():
    assert onset.first_alarm([1.0, 2.0, 2.1, 5.0], 2.0) == 2
    assert onset.first_alarm([1.0, 2.0], 2.0) is None
    assert onset.first_alarm([[0.0, np.nan], [0.0, 3.0], [9.0, 0.0]], 2.0) == 1


# Run lengths


def run_length(h, shift, start=0, allowance=0.5, n_nodes=60):
    """Expected run length of a one-sided CUSUM whose mean jumps by shift at generation `start`.

    Page's integral equation on Gauss-Legendre nodes plus the atom at 0; from the state that
    `start` generations of the null without alarm leave behind.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    nodes, weights = np.append(0.0, h * (nodes + 1) / 2), np.append(np.nan, h * weights / 2)

    def step(mean):
        to = stats.norm.pdf(nodes[None] + allowance - nodes[:, None] - mean) * weights
        to[:, 0] = stats.norm.cdf(allowance - nodes - mean)
        return to

    state = np.eye(n_nodes + 1)[0] @ np.linalg.matrix_power(step(0.0), start)
    lengths = np.linalg.solve(np.eye(n_nodes + 1) - step(shift), np.ones(n_nodes + 1))
    return state @ lengths / state.sum()


@pytest.mark.parametrize(
    ("h", "shift", "published"), [(4, 0, 168), (4, 1, 8.38), (5, 0, 465), (5, 0.5, 38.0)]
)
def test_run_length_theory_equals_published_tables(h, shift, published):
    # Two-sided run lengths of Hawkins & Olwell (1998), also Montgomery (2009, table 9.3).
    both = 1 / (1 / run_length(h, shift) + 1 / run_length(h, -shift))
    assert both == pytest.approx(published, rel=3e-3)


@pytest.mark.parametrize(("shift", "start"), [(1.0, 0), (1.0, 6), (-1.5, 6), (3.0, 10)])
def test_delay_after_a_step_is_what_theory_predicts(shift, start):
    h, n_replicas = 5.0, 6000
    loop = np.random.default_rng(1).standard_normal((start + 90, n_replicas))
    loop[start:] += shift
    onsets = np.array(known_null(h, n_replicas).onsets(loop), dtype=np.float64)
    assert not np.isnan(onsets).any()
    lengths = onsets[onsets >= start] - start + 1
    error = lengths.std(ddof=1) / np.sqrt(len(lengths))
    expected = run_length(h, abs(shift), start)
    assert abs(lengths.mean() - expected) < 3 * error, (lengths.mean(), expected, error)


# Thresholds


@pytest.mark.parametrize("n_null", [10, 100])
@pytest.mark.parametrize("n_streams", [1, 12])
def test_gaussian_threshold_of_one_generation_is_a_t_quantile(n_null, n_streams):
    quantile = (1 - ALPHA) ** (1 / n_streams)
    t = stats.t.ppf((1 + quantile) / 2, n_null - 1)
    exact = np.sqrt(1 + 1 / n_null) * t - 0.5
    h = onset.gaussian_threshold(n_null, 1, n_streams, ALPHA)
    assert exact < h < 1.06 * exact, (exact, h)


def test_resampled_threshold_equals_a_plain_loop():
    controls = skewed(np.random.default_rng(2), (4, 6, 3))
    pooled, maxima = controls.reshape(24, 3), []
    for pick in onset._picks(24, 8, 0):
        assert len(set(pick)) == 8
        rest = np.delete(pooled, pick, 0)
        z = (pooled[pick] - rest.mean(0)) / rest.std(0, ddof=1)
        maxima.append(onset.cusum(z).max())
    part = onset.fit(controls, 8, 0.1).threshold_parts["resampled"]
    assert part == pytest.approx(sorted(maxima)[1801 - 1], rel=1e-9)  # ceil(0.9 * 2001) = 1801
    assert "resampled" not in onset.fit(controls, 13).threshold_parts


def test_resampled_threshold_is_finite_with_a_single_deviating_generation():
    controls = np.random.default_rng(3).standard_normal((5, 20, 2))
    controls[:, :, 1] = 0
    controls[2, 7, 1] = 1
    without = onset.fit(controls[:, :, :1], 20).threshold_parts["resampled"]
    assert without <= onset.fit(controls, 20).threshold_parts["resampled"] < 2 * without


def test_empirical_threshold_is_the_conformal_order_statistic():
    controls = skewed(np.random.default_rng(4), (20, 10, 3))
    maxima = []
    for i in range(20):
        rest = np.delete(controls, i, 0).reshape(-1, 3)
        maxima.append(onset.cusum((controls[i] - rest.mean(0)) / rest.std(0, ddof=1))[:8].max())
    part = onset.fit(controls, 8, 0.1).threshold_parts["empirical"]
    assert part == pytest.approx(sorted(maxima)[19 - 1], rel=1e-12)  # ceil(0.9 * 21) = 19
    assert "empirical" in onset.fit(controls[:19], 8, 0.05).threshold_parts
    assert "empirical" not in onset.fit(controls[:18], 8, 0.05).threshold_parts
    assert "empirical" not in onset.fit(controls, 11, 0.05).threshold_parts


def test_the_threshold_is_the_largest_part_and_follows_the_seed():
    controls = skewed(np.random.default_rng(5), (20, 20, 4))
    null = onset.fit(controls, 20)
    assert set(null.threshold_parts) == {"gaussian", "resampled", "empirical"}
    assert null.threshold == max(null.threshold_parts.values())
    assert null.threshold == onset.fit(controls, 20).threshold
    other = onset.fit(controls, 20, seed=1).threshold_parts
    assert null.threshold_parts["gaussian"] != other["gaussian"]
    assert null.threshold_parts["resampled"] != other["resampled"]


# False alarms


@pytest.mark.parametrize("draw", [independent, correlated, skewed])
@pytest.mark.parametrize("n_loops", [5, 20])
def test_no_change_alarms_at_most_alpha(draw, n_loops):
    rate, error = false_alarms(draw, n_loops)
    assert rate <= ALPHA + error, f"{rate:.4f} of null loops alarm, allowed {ALPHA} + {error:.4f}"


def test_no_change_alarms_at_most_alpha_beyond_the_controls_length():
    rate, error = false_alarms(independent, 5, horizon=40)
    assert rate <= ALPHA + error, f"{rate:.4f} of null loops alarm, allowed {ALPHA} + {error:.4f}"


@pytest.mark.parametrize(
    ("n_loops", "draw", "wrong", "at_least"),
    [
        (5, independent, lambda null: onset.gaussian_threshold(100, 20, 1), 5 * ALPHA),
        (2, independent, lambda null: onset.gaussian_threshold(10**9, 20, 12), 2 * ALPHA),
        (5, skewed, lambda null: null.threshold_parts["gaussian"], 3 * ALPHA),
    ],
    ids=["number of streams ignored", "estimation error ignored", "tails ignored"],
)
def test_wrong_thresholds_break_the_bound(n_loops, draw, wrong, at_least):
    rate, error = false_alarms(draw, n_loops, threshold=wrong, n_sets=100)
    assert rate > at_least > ALPHA + error, f"{rate:.4f}"


# Calibration


def test_pooled_moments_and_z():
    rng = np.random.default_rng(6)
    controls, loop = rng.normal(3, 2, (4, 7, 2)), rng.normal(3, 2, (5, 2))
    calibration = onset.calibrate(controls, 6)
    pooled = controls.reshape(28, 2)
    expected = (loop - pooled.mean(0)) / pooled.std(0, ddof=1)
    np.testing.assert_allclose(calibration.z(loop), expected, rtol=1e-12)
    np.testing.assert_allclose(calibration.statistic(loop), onset.cusum(expected), rtol=1e-9)


def test_a_control_loop_is_judged_by_the_others_only():
    controls = np.random.default_rng(7).standard_normal((20, 10, 3))
    changed = controls.copy()
    changed[3] = 10 * changed[3] + 5
    before, after = onset.calibrate(controls, 10), onset.calibrate(changed, 10)
    for i in range(20):
        same_parts = before.judges[i].threshold_parts == after.judges[i].threshold_parts
        same_mean = (before.judges[i].mean == after.judges[i].mean).all()
        same_sd = (before.judges[i].sd == after.judges[i].sd).all()
        assert same_parts == same_mean == same_sd == (i == 3)
    assert not before.control_alarms[3] and after.control_alarms[3]


def test_control_alarms_equal_refitting_without_each_loop():
    controls = skewed(np.random.default_rng(8), (5, 12, 3))
    controls[1, 4:] += 6
    calibration = onset.calibrate(controls, 9, alpha=0.2)
    for i in range(5):
        judge = onset.fit(np.delete(controls, i, 0), 9, alpha=0.2)
        assert calibration.control_alarms[i] == (judge.onset(controls[i, :9]) is not None)
    assert calibration.control_alarms.tolist() == [False, True, False, False, False]
    assert calibration.certified_rate == onset.certified_rate(1, 5)


def test_a_constant_stream_is_not_monitored():
    rng = np.random.default_rng(9)
    controls, loop = rng.standard_normal((5, 20, 3)), rng.standard_normal((20, 3)) + 9
    controls[:, :, 1] = 0.1
    calibration = onset.calibrate(controls, 20)
    assert calibration.monitored.tolist() == [True, False, True]
    assert np.isnan(calibration.sd[1]) and np.isnan(calibration.statistic(loop)[:, 1]).all()
    assert np.isfinite(calibration.statistic(loop)[:, [0, 2]]).all()
    assert calibration.onsets(loop) == [0, None, 0]
    assert calibration.onset(loop, [1]) is None and calibration.onset(loop, [1, 2]) == 0
    rest = onset.calibrate(controls[:, :, [0, 2]], 20)
    assert calibration.threshold == rest.threshold


def test_onset_of_a_set_is_the_first_of_its_streams():
    loop = np.zeros((10, 3))
    loop[6:, 0], loop[2:, 1], loop[4:, 2] = 9, -9, 9
    null = known_null(5.0, 3)
    assert null.onsets(loop) == [6, 2, 4]
    assert null.onset(loop) == 2 and null.onset(loop, [0, 2]) == 4 and null.onset(loop, [0]) == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_values_name_the_stream(bad):
    controls = np.random.default_rng(10).standard_normal((3, 10, 4))
    calibration, loop = onset.calibrate(controls, 10), np.zeros((10, 4))
    controls[1, 2, 3] = loop[5, 2] = bad
    with pytest.raises(ValueError, match="controls .* stream 3"):
        onset.calibrate(controls, 10)
    with pytest.raises(ValueError, match="loop .* stream 2"):
        calibration.onsets(loop)


def test_errors_say_what_to_do():
    controls = np.random.default_rng(11).standard_normal((2, 10, 4))
    with pytest.raises(ValueError, match="run 2 or more control loops"):
        onset.calibrate(controls[:1], 10)
    with pytest.raises(ValueError, match="give more generations"):
        onset.calibrate(controls[:, :1], 10)
    with pytest.raises(ValueError, match="every stream is constant"):
        onset.calibrate(np.ones((2, 10, 4)), 10)
    with pytest.raises(ValueError, match="shape"):
        onset.calibrate(controls[0], 10)
    calibration = onset.calibrate(controls, 10)
    with pytest.raises(ValueError, match="horizon = 11"):
        calibration.z(np.zeros((11, 4)))
    with pytest.raises(ValueError, match="5 streams, the controls 4"):
        calibration.z(np.zeros((10, 5)))
    with pytest.raises(ValueError, match="give fewer"):
        onset.gaussian_threshold(100, 2, 1000, n_simulated=1000)


@pytest.mark.parametrize("n_loops", [1, 5, 20, 100])
def test_certified_rate_is_clopper_pearson(n_loops):
    assert onset.certified_rate(0, n_loops) == pytest.approx(1 - 0.05 ** (1 / n_loops), rel=1e-12)
    assert onset.certified_rate(n_loops, n_loops) == 1
    for n_alarms in range(n_loops):
        bound = onset.certified_rate(n_alarms, n_loops, 0.9)
        assert bound == pytest.approx(stats.beta.isf(0.1, n_alarms + 1, n_loops - n_alarms))
        assert stats.binom.cdf(n_alarms, n_loops, bound) == pytest.approx(0.1)
    with pytest.raises(ValueError):
        onset.certified_rate(n_loops + 1, n_loops)


# Leads


def test_a_built_in_lead_is_recovered():
    rng = np.random.default_rng(12)
    calibration = onset.calibrate(rng.standard_normal((5, 20, 2)), 20)
    leads = []
    for loop in rng.standard_normal((7, 20, 2)):
        loop[3:, 0] -= 4
        loop[8:, 1] += 4
        candidate, reference = calibration.onsets(loop)
        assert 3 <= candidate <= 6 and 8 <= reference <= 11
        leads.append(onset.lead(candidate, reference, 20))
    summary = onset.summarise_leads(leads)
    assert summary["median_low"] == summary["median_high"] == 5
    assert summary["median_is"] == "exact" and summary["n_candidate_first"] == 7
    assert 4 <= summary["interval_low"] <= 5 <= summary["interval_high"] <= 6
    assert summary["p_value"] == pytest.approx(2 * 0.5**7)


def test_lead_and_its_censoring():
    assert onset.lead(3, 8, 20) == (5, "none")
    assert onset.lead(8, 3, 20) == (-5, "none")
    assert onset.lead(4, 4, 20) == (0, "none")
    assert onset.lead(3, None, 20) == (17, "right")
    assert onset.lead(None, 3, 20) == (-17, "left")
    assert onset.lead(None, None, 20) == (None, "both")
    with pytest.raises(ValueError, match="onset 20 is outside"):
        onset.lead(20, 3, 20)


@pytest.mark.parametrize(
    ("pairs", "low", "high", "kind"),
    [
        ([(3, 6), (2, 6), (1, None)], 4, 4, "exact"),  # 3, 4, at least 9
        ([(3, 6), (1, None), (2, None)], 8, np.inf, "at least"),  # 3, at least 9, at least 8
        ([(3, 6), (None, 1), (None, 2)], -np.inf, -8, "at most"),
        ([(1, 3), (8, None), (0, 5)], 2, 5, "between"),  # 2, at least 2, 5
        ([(1, None), (None, 1)], -np.inf, np.inf, "unknown"),
        ([(None, None)], -np.inf, np.inf, "unknown"),
        ([(None, None), (4, 4), (4, 5)], 0.5, 0.5, "exact"),
    ],
)
def test_median_says_whether_it_is_a_bound(pairs, low, high, kind):
    summary = onset.summarise_leads([onset.lead(*pair, 10) for pair in pairs])
    assert (summary["median_low"], summary["median_high"], summary["median_is"]) == (
        low,
        high,
        kind,
    )
    assert summary["interval_low"] <= low and summary["interval_high"] >= high


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_censoring_hides_the_median_but_never_contradicts_it(pairs):
    horizon = 10
    known = [pair for pair in pairs if min(pair) < horizon]
    seen = [[g if g < horizon else None for g in pair] for pair in pairs]
    summary = onset.summarise_leads([onset.lead(*p, horizon) for p in seen], n_resamples=20)
    assert summary["n_loops"] == len(pairs)
    assert summary["n_undefined"] == len(pairs) - len(known)
    truth = np.array([reference - candidate for candidate, reference in known])
    assert summary["n_candidate_first"] == (truth > 0).sum()
    assert summary["n_reference_first"] == (truth < 0).sum()
    assert summary["n_ties"] == (truth == 0).sum()
    if known:
        assert summary["median_low"] <= np.median(truth) <= summary["median_high"]


def test_bootstrap_interval_equals_its_exact_distribution():
    n, values = 9, [-2, 0, 1, 3, 4, 6, 7, 9, 12]
    # A resample has a median of at most the i-th value if 5 draws or more are among the first i.
    cdf = stats.binom.sf(4, n, np.arange(1, n + 1) / n)
    expected = values[int((cdf < 0.025).sum())], values[int((cdf < 0.975).sum())]
    leads = [onset.Lead(value, "none") for value in values]
    summary = onset.summarise_leads(leads, seed=3)
    assert (summary["interval_low"], summary["interval_high"]) == expected
    assert summary == onset.summarise_leads(leads, seed=3)


def test_sign_test_drops_ties_and_counts_censored_leads():
    leads = [onset.lead(*pair, 10) for pair in [(1, 2), (1, 3), (2, None), (5, 5), (9, None)]]
    leads += [onset.lead(None, 4, 10), onset.lead(None, None, 10)]
    outcomes = [abs(sum(signs) - 2.5) for signs in itertools.product([0, 1], repeat=5)]
    expected = np.mean([distance >= abs(4 - 2.5) for distance in outcomes])
    summary = onset.summarise_leads(leads)
    assert summary["p_value"] == pytest.approx(expected)
    assert (summary["n_candidate_first"], summary["n_reference_first"]) == (4, 1)
    assert (summary["n_ties"], summary["n_undefined"], summary["n_censored"]) == (1, 1, 3)
    assert onset.summarise_leads([onset.Lead(0, "none")])["p_value"] == 1
