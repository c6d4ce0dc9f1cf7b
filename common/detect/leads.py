"""Which of two streams left its null first, in one loop and over several.

A loop ends before every stream has alarmed, so a lead can be censored: known only as a bound.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


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


def summarise(leads, seed=0, confidence=0.95, n_resamples=10_000):
    """Summary dict of the Leads of several loops; those with "both" are only counted.

    The median is monotone in every lead, so it lies between the medians of the leads' lower and
    upper limits (median_low, median_high, infinite where unlimited); median_is says "exact", "at
    least", "at most", "between" or "unknown". interval_low and interval_high: percentile
    bootstrap over loops (Efron 1979) of those two, rough below some 10 loops. p_value: exact
    two-sided sign test, where ties drop out and a censored lead counts by its sign; loops judged
    by the same few controls share their errors, which makes it reject too often (5 controls and
    alpha = 0.05: about 0.1 of equal streams).
    """
    known = [one for one in leads if one.censored != "both"]
    value = np.array([one.value for one in known], dtype=np.float64)
    censored = np.array([one.censored for one in known], dtype=str)
    low = np.where(censored == "left", -np.inf, value)
    high = np.where(censored == "right", np.inf, value)
    n_first, n_after = int((value > 0).sum()), int((value < 0).sum())
    n_signs = n_first + n_after
    summary = {
        "n_loops": len(leads),
        "n_undefined": len(leads) - len(known),
        "n_censored": int((censored != "none").sum()),
        "n_candidate_first": n_first,
        "n_ties": len(known) - n_signs,
        "n_reference_first": n_after,
        "p_value": float(stats.binomtest(n_first, n_signs).pvalue) if n_signs else 1.0,
    }
    if known:
        draws = np.random.default_rng(seed).integers(len(known), size=(n_resamples, len(known)))
        tail = (1 - confidence) / 2
        lows, highs = np.median(low[draws], 1), np.median(high[draws], 1)
        limits = np.median(low), np.median(high)
        # Sorted entries, not interpolated: the middle of two infinities is NaN.
        interval = (
            np.quantile(lows, tail, method="lower"),
            np.quantile(highs, 1 - tail, method="higher"),
        )
    else:
        limits = interval = (-np.inf, np.inf)
    kinds = {(1, 0): "at least", (0, 1): "at most", (0, 0): "unknown", (1, 1): "between"}
    kind = kinds[tuple(np.isfinite(limits))]
    summary["median_low"], summary["median_high"] = map(float, limits)
    summary["median_is"] = "exact" if limits[0] == limits[1] else kind
    summary["interval_low"], summary["interval_high"] = map(float, interval)
    return summary


def in_words(summary):
    """(median, interval) of a summary in words: ("at least 2", "1 to no limit")."""
    low, high, kind = (summary[key] for key in ("median_low", "median_high", "median_is"))
    median = {
        "exact": f"{low:g}",
        "at least": f"at least {low:g}",
        "at most": f"at most {high:g}",
        "between": f"between {low:g} and {high:g}",
        "unknown": "unknown",
    }[kind]
    limits = (summary["interval_low"], summary["interval_high"])
    ends = ("no limit" if math.isinf(limit) else f"{limit:g}" for limit in limits)
    return median, " to ".join(ends)
