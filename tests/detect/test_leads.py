"""common/detect/leads.py: known leads, censored ones, and exact distributions of their summary."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.detect import thresholds
from common.detect.leads import Lead, in_words, lead, summarise


def test_a_built_in_lead_is_recovered():
    rng = np.random.default_rng(13)
    controls = list(rng.standard_normal((5, 20, 2)))
    calibration = thresholds.calibrate(controls, 20, 0.05, np.array([-1, 1]))
    leads = []
    for loop in rng.standard_normal((7, 20, 2)):
        loop[3:, 0] -= 5
        loop[8:, 1] += 5
        candidate, reference = (at.generation for at in calibration.onsets(loop))
        assert 3 <= candidate <= 6 and 8 <= reference <= 11
        leads.append(lead(candidate, reference, 20))
    summary = summarise(leads)
    assert summary["median_low"] == summary["median_high"] == 5
    assert summary["median_is"] == "exact" and summary["n_candidate_first"] == 7
    assert 4 <= summary["interval_low"] <= 5 <= summary["interval_high"] <= 6
    assert summary["p_value"] == pytest.approx(2 * 0.5**7)


def test_lead_and_its_censoring():
    assert lead(3, 8, 20) == (5, "none")
    assert lead(8, 3, 20) == (-5, "none")
    assert lead(4, 4, 20) == (0, "none")
    assert lead(3, None, 20) == (17, "right")
    assert lead(None, 3, 20) == (-17, "left")
    assert lead(None, None, 20) == (None, "both")
    with pytest.raises(ValueError, match="onset 20 is outside"):
        lead(20, 3, 20)


@pytest.mark.parametrize(
    ("pairs", "low", "high", "kind", "words"),
    [
        ([(3, 6), (2, 6), (1, None)], 4, 4, "exact", "4"),  # 3, 4, at least 9
        (
            [(3, 6), (1, None), (2, None)],
            8,
            np.inf,
            "at least",
            "at least 8",
        ),  # 3, at least 9, at least 8
        ([(3, 6), (None, 1), (None, 2)], -np.inf, -8, "at most", "at most -8"),
        ([(1, 3), (8, None), (0, 5)], 2, 5, "between", "between 2 and 5"),  # 2, at least 2, 5
        ([(1, None), (None, 1)], -np.inf, np.inf, "unknown", "unknown"),
        ([(None, None)], -np.inf, np.inf, "unknown", "unknown"),
        ([(None, None), (4, 4), (4, 5)], 0, 1, "between", "between 0 and 1"),  # any, 0, 1
    ],
)
def test_median_says_whether_it_is_a_bound(pairs, low, high, kind, words):
    summary = summarise([lead(*pair, 10) for pair in pairs])
    assert (summary["median_low"], summary["median_high"], summary["median_is"]) == (
        low,
        high,
        kind,
    )
    assert in_words(summary) == (words, "no interval below 6 loops")
    summary = summarise(6 * [lead(*pair, 10) for pair in pairs])
    assert summary["interval_low"] <= low and summary["interval_high"] >= high
    _, interval = in_words(summary)
    assert interval.endswith("no limit") == (summary["interval_high"] == np.inf)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=9))
@settings(max_examples=100)
def test_censoring_hides_the_median_but_never_contradicts_it(pairs):
    horizon = 10
    known = [pair for pair in pairs if min(pair) < horizon]
    seen = [[g if g < horizon else None for g in pair] for pair in pairs]
    summary = summarise([lead(*p, horizon) for p in seen], n_resamples=20)
    assert summary["n_loops"] == len(pairs)
    assert summary["n_undefined"] == len(pairs) - len(known)
    truth = np.array([reference - candidate for candidate, reference in known])
    everywhere = np.array([reference - candidate for candidate, reference in pairs])
    assert summary["n_candidate_first"] == (truth > 0).sum()
    assert summary["n_reference_first"] == (truth < 0).sum()
    assert summary["n_ties"] == (truth == 0).sum()
    assert summary["median_low"] <= np.median(everywhere) <= summary["median_high"]


def test_bootstrap_interval_equals_its_exact_distribution():
    n, values = 9, [-2, 0, 1, 3, 4, 6, 7, 9, 12]
    # A resample has a median of at most the i-th value if 5 draws or more are among the first i.
    cdf = stats.binom.sf(4, n, np.arange(1, n + 1) / n)
    expected = values[int((cdf < 0.025).sum())], values[int((cdf < 0.975).sum())]
    leads = [Lead(value, "none") for value in values]
    summary = summarise(leads, seed=3)
    assert (summary["interval_low"], summary["interval_high"]) == expected
    assert summary == summarise(leads, seed=3)


def test_sign_test_drops_ties_and_counts_censored_leads():
    leads = [lead(*pair, 10) for pair in [(1, 2), (1, 3), (2, None), (5, 5), (9, None)]]
    leads += [lead(None, 4, 10), lead(None, None, 10)]
    outcomes = [abs(sum(signs) - 2.5) for signs in itertools.product([0, 1], repeat=5)]
    expected = np.mean([distance >= abs(4 - 2.5) for distance in outcomes])
    summary = summarise(leads)
    assert summary["p_value"] == pytest.approx(expected)
    assert (summary["n_candidate_first"], summary["n_reference_first"]) == (4, 1)
    assert (summary["n_ties"], summary["n_undefined"], summary["n_censored"]) == (1, 1, 3)
    assert summarise([Lead(0, "none")])["p_value"] == 1
