"""When did a stream of per-generation numbers leave its null, and which stream left first?

The null is what control loops show: every generation a fresh model trained on real data, so that
generations are exchangeable draws. A loop is standardised by the controls, watched by a two-sided
CUSUM per stream, and alarms where a CUSUM exceeds one threshold common to all streams. At most
`alpha` of null loops alarm in any stream within the horizon, on average over sets of controls
(one small set is luckier or unluckier than another).

Independent streams are the worst case of Gaussian ones: {CUSUM <= h} is an intersection of strips
|sum of z over a window| <= h + k * length, a symmetric convex set in Gaussian values (the error
of the estimated mean is one of them), so by the Gaussian correlation inequality (Royen 2014,
arXiv 1408.1028) correlated streams alarm no more often. The inequality does not cover the
estimated sd, whose errors are correlated too, nor tails that are not Gaussian. For those the
threshold is also at least that of the controls' own generations, regrouped as loops at random.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from scipy import stats


def _checked(values, name, n_dims):
    """`values` as float64, its shape and finiteness checked; streams are the last axis."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != n_dims or 0 in values.shape:
        shape = "(loops, generations, streams)" if n_dims == 3 else "(generations, streams)"
        raise ValueError(f"{name} has shape {values.shape}: give a filled array {shape}")
    bad = ~np.isfinite(values).reshape(-1, values.shape[-1]).all(0)
    if bad.any():
        streams = ", ".join(map(str, np.flatnonzero(bad)))
        raise ValueError(
            f"{name} holds NaN or infinite values in stream {streams}: drop the stream"
        )
    return values


def cusum(z, allowance=0.5):
    """Two-sided CUSUM max(C+, C-) of standardised values; z and result (G, ...) float64.

    C+_g = max(0, C+_{g-1} + z_g - k) and C-_g = max(0, C-_{g-1} - z_g - k), both from 0, where
    k is the allowance: half the shift to detect, so 0.5 is tuned to a shift of 1 sd (Page 1954;
    Hawkins & Olwell 1998). NaN stays NaN from its generation on.
    """
    z = np.asarray(z, dtype=np.float64)
    statistic = np.empty_like(z)
    up = down = np.zeros(z.shape[1:])
    for g in range(len(z)):
        up = np.maximum(up + z[g] - allowance, 0.0)
        down = np.maximum(down - z[g] - allowance, 0.0)
        statistic[g] = np.maximum(up, down)
    return statistic


def first_alarm(statistic, threshold):
    """First generation (int, from 0) where any stream of `statistic`, (G,) or (G, S), exceeds h.

    None without an alarm. NaN, the mark of a stream that is not monitored, never exceeds.
    """
    above = np.asarray(statistic) > threshold
    above = above.reshape(len(above), -1).any(1)
    return int(above.argmax()) if above.any() else None


@lru_cache(maxsize=256)
def gaussian_threshold(
    n_null, horizon, n_streams, alpha=0.05, allowance=0.5, seed=0, n_simulated=200_000
):
    """Threshold h (float) that at most alpha of Gaussian null loops exceed in any of n_streams.

    Streams are simulated as independent, each standardised by its own mean and sd estimated from
    n_null control generations. The maximum over streams then has cdf F_1^S, F_1 being that of a
    single stream with its estimation error, so h is the (1 - alpha)^(1/S) quantile of F_1: the
    order statistic that is at least the quantile with 99 % confidence over the simulation.
    Raises ValueError if n_simulated cannot reach the quantile.
    """
    if n_null < 2 or horizon < 1 or n_streams < 1 or not 0 < alpha < 1:
        raise ValueError("a threshold needs n_null >= 2, horizon, n_streams >= 1 and 0 < alpha < 1")
    quantile = (1 - alpha) ** (1 / n_streams)
    order = int(stats.binom.ppf(0.99, n_simulated, quantile))  # from 0; one above the 99 % count
    if order >= n_simulated:
        raise ValueError(f"{n_simulated} draws cannot judge {n_streams} streams: give fewer")
    rng = np.random.default_rng(seed)
    maxima = []
    for start in range(0, n_simulated, 10_000):
        size = min(10_000, n_simulated - start)
        mean = rng.standard_normal(size) / np.sqrt(n_null)
        sd = np.sqrt(rng.chisquare(n_null - 1, size) / (n_null - 1))
        z = (rng.standard_normal((horizon, size)) - mean) / sd
        maxima.append(cusum(z, allowance).max(0))
    return float(np.partition(np.concatenate(maxima), order)[order])


def _moments(controls):
    """Mean, sd (NaN where constant) and monitored, (..., S), of controls (..., L, G, S)."""
    mean, sd = controls.mean((-3, -2)), controls.std((-3, -2), ddof=1)
    # A constant stream can have sd 1e-17 by rounding: only the range shows that it has no scale.
    monitored = np.ptp(controls, (-3, -2)) > 1e-12 * np.abs(controls).max((-3, -2))
    return mean, np.where(monitored, sd, np.nan), monitored


@lru_cache(maxsize=64)
def _picks(n_null, horizon, seed, n_simulated=2000):
    """Generations out of n_null that stand in for a loop: (n_simulated, horizon), none twice."""
    order = np.random.default_rng(seed).random((n_simulated, n_null)).argsort(1)
    return order[:, :horizon].copy()


def _resampled_threshold(controls, horizon, alpha, allowance, seed):
    """Order statistic of the maxima of random control generations standardised by the rest.

    Generations are exchangeable, so they can stand in for a null loop with the streams' own tails
    and correlations. None if the rest would be less than half of the generations.
    """
    pooled = (controls - controls.mean((0, 1))).reshape(-1, controls.shape[2])  # (n, S)
    n_rest = len(pooled) - horizon
    if 2 * n_rest < len(pooled):
        return None
    z = pooled[_picks(len(pooled), horizon, seed)]  # (n_simulated, horizon, S), not yet scaled
    mean = -z.sum(1) / n_rest  # of the rest: all of `pooled` sums to 0
    total = (pooled**2).sum(0)
    squares = total - (z**2).sum(1) - n_rest * mean**2
    # A stream constant in the rest would not be monitored: an infinite sd keeps it silent.
    variance = np.where(squares > 1e-12 * total, squares / (n_rest - 1), np.inf)
    z = (z - mean[:, None]) / np.sqrt(variance)[:, None]
    maxima = cusum(z.swapaxes(0, 1), allowance).max((0, 2))
    rank = ceil((1 - alpha) * (len(maxima) + 1) - 1e-9)
    return float(np.sort(maxima)[rank - 1]) if rank <= len(maxima) else None


def _empirical_threshold(controls, horizon, alpha, allowance):
    """Conformal order statistic of the maxima of controls standardised by the others, or None.

    None if there are too few loops, ceil((1 - alpha)(L + 1)) > L, or loops shorter than horizon.
    """
    n_loops, n_generations, _ = controls.shape
    rank = ceil((1 - alpha) * (n_loops + 1) - 1e-9)
    if rank > n_loops or n_loops < 2 or n_generations < horizon:
        return None
    others = controls[[np.delete(np.arange(n_loops), i) for i in range(n_loops)]]
    mean, sd, monitored = _moments(others)  # (L, S)
    z = (controls[:, :horizon].swapaxes(0, 1) - mean) / sd  # (horizon, L, S)
    maxima = cusum(z, allowance).max((0, 2), where=monitored, initial=0.0)
    return float(np.sort(maxima)[rank - 1])


@dataclass(frozen=True, eq=False)
class Null:
    """What S streams do without change. Shapes (S,): mean, sd (NaN if not monitored), monitored.

    threshold is the largest of threshold_parts, a dict with the threshold of "gaussian" loops and,
    where there are enough controls, of "resampled" generations and "empirical" control loops. A
    stream with heavy tails raises it for all: take logarithms of such a stream, or leave it out.
    """

    mean: np.ndarray
    sd: np.ndarray
    monitored: np.ndarray
    threshold: float
    threshold_parts: dict
    alpha: float
    allowance: float
    horizon: int

    def z(self, loop):
        """Standardised loop, (G', S) to (G', S); columns that are not monitored are NaN.

        Raises ValueError for NaN or infinite values, other streams or G' > horizon.
        """
        loop = _checked(loop, "loop", 2)
        if loop.shape[1] != len(self.mean):
            raise ValueError(f"loop has {loop.shape[1]} streams, the controls {len(self.mean)}")
        if len(loop) > self.horizon:
            raise ValueError(f"loop is longer than {self.horizon}: set horizon = {len(loop)}")
        return (loop - self.mean) / self.sd

    def statistic(self, loop):
        """Two-sided CUSUM of the standardised loop, (G', S); NaN where not monitored."""
        return cusum(self.z(loop), self.allowance)

    def onsets(self, loop):
        """Onset of each stream of a loop (G', S): a list of S generations, None without alarm."""
        return [first_alarm(stream, self.threshold) for stream in self.statistic(loop).T]

    def onset(self, loop, streams=slice(None)):
        """First alarm in any of `streams` (list of indices; all) of a loop (G', S), or None.

        Of streams that change together, the first of many alarms before a single one does. To
        compare two sets calibrate each on its own, at one alpha, or compare single streams.
        """
        return first_alarm(self.statistic(loop)[:, streams], self.threshold)


@dataclass(frozen=True, eq=False)
class Calibration(Null):
    """A Null of all L controls, and its trial on them: judges[l] is the Null without loop l.

    control_alarms (L,) bool says which control loops alarm before their judge, certified_rate is
    the upper 95 % bound on the false-alarm rate that this count supports.
    """

    judges: tuple
    control_alarms: np.ndarray
    certified_rate: float


def fit(controls, horizon, alpha=0.05, allowance=0.5, seed=0):
    """The Null of controls (L, G, S), L >= 1, for loops of up to `horizon` generations.

    Mean and sd are pooled over all L * G generations. Raises ValueError for NaN or infinite
    values, fewer than 2 generations in all, or controls without a stream that varies.
    """
    controls = _checked(controls, "controls", 3)
    n_null = controls.shape[0] * controls.shape[1]
    if n_null < 2:
        raise ValueError("one control generation has no sd: give more generations or loops")
    mean, sd, monitored = _moments(controls)
    if not monitored.any():
        raise ValueError("every stream is constant in the controls: there is nothing to monitor")
    some = controls[:, :, monitored]
    parts = {
        "gaussian": gaussian_threshold(n_null, horizon, some.shape[2], alpha, allowance, seed),
        "resampled": _resampled_threshold(some, horizon, alpha, allowance, seed),
        "empirical": _empirical_threshold(some, horizon, alpha, allowance),
    }
    parts = {name: part for name, part in parts.items() if part is not None}
    return Null(mean, sd, monitored, max(parts.values()), parts, alpha, allowance, horizon)


def calibrate(controls, horizon, alpha=0.05, allowance=0.5, seed=0):
    """Calibration from controls (L, G, S), L >= 2, for loops of up to `horizon` generations.

    Each control loop is judged by a Null of the other loops only, over its first min(G, horizon)
    generations. These trials share controls, for which certified_rate makes no allowance; in
    simulations their count varied no more than a binomial one, which keeps the bound on the safe
    side. Raises ValueError for L < 2 and where `fit` does.
    """
    controls = _checked(controls, "controls", 3)
    if len(controls) < 2:
        raise ValueError("1 control loop cannot be judged by others: run 2 or more control loops")
    null = fit(controls, horizon, alpha, allowance, seed)
    span = min(controls.shape[1], horizon)
    judges = tuple(
        fit(np.delete(controls, i, 0), span, alpha, allowance, seed) for i in range(len(controls))
    )
    trials = zip(judges, controls[:, :span], strict=True)
    alarms = np.array([judge.onset(control) is not None for judge, control in trials])
    rate = certified_rate(int(alarms.sum()), len(alarms))
    return Calibration(**vars(null), judges=judges, control_alarms=alarms, certified_rate=rate)


def certified_rate(n_alarms, n_loops, confidence=0.95):
    """Upper confidence bound on the alarm rate after n_alarms of n_loops independent loops.

    One-sided and exact (Clopper & Pearson 1934); 0 of 5 certifies a rate of at most 0.45.
    Raises ValueError unless 0 <= n_alarms <= n_loops and n_loops >= 1.
    """
    if not 0 <= n_alarms <= n_loops or n_loops < 1:
        raise ValueError(f"{n_alarms} alarms of {n_loops} loops: give a count and its total")
    if n_alarms == n_loops:
        return 1.0
    return float(stats.beta.ppf(confidence, n_alarms + 1, n_loops - n_alarms))


class Lead(NamedTuple):
    """Generations by which the candidate alarmed before the reference (negative: after it).

    censored: "none"; "right", the lead is at least value; "left", at most value; "both", neither
    stream alarmed and value is None.
    """

    value: int | None
    censored: str


def lead(onset_candidate, onset_reference, horizon):
    """Lead of one loop of `horizon` generations from two onsets (int from 0, or None).

    A stream without alarm would alarm at `horizon` at the earliest. Raises ValueError for an
    onset outside the horizon.
    """
    for onset in (onset_candidate, onset_reference):
        if onset is not None and not 0 <= onset < horizon:
            raise ValueError(f"onset {onset} is outside the horizon of {horizon} generations")
    if onset_candidate is None and onset_reference is None:
        return Lead(None, "both")
    if onset_reference is None:
        return Lead(horizon - onset_candidate, "right")
    if onset_candidate is None:
        return Lead(onset_reference - horizon, "left")
    return Lead(onset_reference - onset_candidate, "none")


def summarise_leads(leads, seed=0, confidence=0.95, n_resamples=10_000):
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
