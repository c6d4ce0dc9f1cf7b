"""Which of two streams left its null first, in one loop and over several.

A loop ends before every stream has alarmed, so a lead can be censored: known only as a bound.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST_LOOPS = 6  # between all of n loops lies the median with probability 1 - 2^(1 - n)


class Lead(NamedTuple):
    """Generations by which the candidate alarmed before the reference (negative: after it).

    censored: "none"; "right", the lead is at least value; "left", at most value; "both", neither
    stream alarmed and value is None.
    """

    value: int | None
    censored: str


def lead(candidate, reference, horizon):
    """The Lead in one loop of `horizon` generations, from two onsets (int from 0, or None).

    A stream without alarm would alarm at `horizon` at the earliest. Raises ValueError for an
    onset outside the horizon.
    """
    for onset in (candidate, reference):
        if onset is not None and not 0 <= onset < horizon:
            raise ValueError(f"onset {onset} is outside the horizon of {horizon} generations")
    if candidate is None and reference is None:
        return Lead(None, "both")
    if reference is None:
        return Lead(horizon - candidate, "right")
    if candidate is None:
        return Lead(reference - horizon, "left")
    return Lead(reference - candidate, "none")


def limits(candidate, reference, horizon):
    """The least and the largest lead, float arrays of one shape, of onsets in arrays of it, which
    hold `horizon` where there is none; infinite where a lead has no limit."""
    value = np.subtract(reference, candidate, dtype=np.float64)
    low = np.where(candidate < horizon, value, -np.inf)
    return low, np.where(reference < horizon, value, np.inf)


def summarise(leads, seed=0, confidence=0.95, n_resamples=10_000, resampled=None):
    """Summary dict of the Leads of n loops.

    The median is monotone in every lead, so it lies between the medians of the leads' lower and
    upper limits (median_low, median_high, infinite where unlimited); median_is says "exact", "at
    least", "at most", "between" or "unknown". A loop in which neither alarmed may have any lead.
    interval_low and interval_high: percentile bootstrap over loops (Efron 1979) of those two, NaN
    below LEAST_LOOPS; resampled, the `limits` (B, n) of the same loops when controls are drawn
    anew, makes it one over loops and controls. p_value: exact two-sided sign test, where ties and
    loops without alarm drop out and a censored lead counts by its sign; loops judged by the same
    few controls share their errors, which makes it reject too often (5 controls and alpha = 0.05:
    about 0.1 of equal streams).
    """
    n = len(leads)
    value = np.array([np.nan if one.value is None else one.value for one in leads])
    censored = np.array([one.censored for one in leads], dtype=str)
    low = np.where(np.isin(censored, ("left", "both")), -np.inf, value)
    high = np.where(np.isin(censored, ("right", "both")), np.inf, value)
    n_first, n_after = int((value > 0).sum()), int((value < 0).sum())
    n_signs, n_undefined = n_first + n_after, int((censored == "both").sum())
    median_low, median_high = float(np.median(low)), float(np.median(high))
    kinds = {(1, 0): "at least", (0, 1): "at most", (0, 0): "unknown", (1, 1): "between"}
    kind = kinds[tuple(np.isfinite([median_low, median_high]))]
    interval = np.nan, np.nan
    if n >= LEAST_LOOPS:
        lows, highs = resampled or [np.tile(of, (n_resamples, 1)) for of in (low, high)]
        draws = np.random.default_rng(seed).integers(n, size=lows.shape)
        tail = (1 - confidence) / 2
        lows, highs = (np.median(np.take_along_axis(of, draws, axis=1), 1) for of in (lows, highs))
        # Sorted entries, not interpolated: the middle of two infinities is NaN.
        interval = (
            np.quantile(lows, tail, method="lower"),
            np.quantile(highs, 1 - tail, method="higher"),
        )
    return {
        "n_loops": n,
        "n_undefined": n_undefined,
        "n_censored": int((censored != "none").sum()) - n_undefined,
        "n_candidate_first": n_first,
        "n_ties": n - n_undefined - n_signs,
        "n_reference_first": n_after,
        "p_value": float(stats.binomtest(n_first, n_signs).pvalue) if n_signs else 1.0,
        "median_low": median_low,
        "median_high": median_high,
        "median_is": "exact" if median_low == median_high else kind,
        "interval_low": float(interval[0]),
        "interval_high": float(interval[1]),
    }


def in_words(summary):
    """(median, interval) of a summary in words: ("at least 2", "95 % interval 1 to no limit")."""
    low, high, kind = (summary[key] for key in ("median_low", "median_high", "median_is"))
    median = {
        "exact": f"{low:g}",
        "at least": f"at least {low:g}",
        "at most": f"at most {high:g}",
        "between": f"between {low:g} and {high:g}",
        "unknown": "unknown",
    }[kind]
    if summary["n_loops"] < LEAST_LOOPS:
        return median, f"no interval below {LEAST_LOOPS} loops"
    limits = (summary["interval_low"], summary["interval_high"])
    ends = ("no limit" if math.isinf(limit) else f"{limit:g}" for limit in limits)
    return median, f"95 % interval {' to '.join(ends)}"
