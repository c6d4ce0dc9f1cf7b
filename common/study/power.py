"""How strongly, how often and how early loops are detected, and what that is known to.

Arrays of values are (n loops, G generations of the horizon, S streams). An alarm time is the
generation of a stream's first alarm, G where there is none. What is uncertain are the loops and the
controls that set mean, sd and threshold of every stream, and loops that share controls share their
error: so each of B resamples draws the controls anew (Efron 1979), whole loops at a time, and
derives the thresholds again. Arrays of resamples begin with B.
"""

from typing import NamedTuple

import numpy as np
from scipy import special, stats
from scipy.optimize import isotonic_regression

from common.detect import thresholds

CONTROL = "control"  # the arm of the controls, judged by one another
RESAMPLES = 2000
SIGNIFICANT = 0.05  # what p-values of significant differences are below


class Judged(NamedTuple):
    """What one arm of n loops shows. Shapes: times (n, S), resampled_times (B, n, S); fractions
    (B, G, S), the resamples of the fraction detected by a generation; (G, S): effect in control
    sds with its interval, how many are detected, and the interval of their fraction."""

    times: np.ndarray
    resampled_times: np.ndarray
    fractions: np.ndarray
    effect: np.ndarray
    effect_low: np.ndarray
    effect_high: np.ndarray
    detected: np.ndarray
    low: np.ndarray
    high: np.ndarray


def judge(controls, arms, alpha, direction, seed=0, resamples=RESAMPLES):
    """The Null of controls (L, G, S), and {arm: Judged}: the controls, each against the others,
    then arms {name: (n, G, S)}. Intervals are of 95 %, over loops and controls.

    Simulated (studies of 20 controls and 20 loops, Gaussian, of 5 generations): these intervals
    hold the truth in 95 to 99 % (fraction, 1,000 studies) and 93 to 98 % (effect, 300; of 7
    controls and 2 loops 97 to 100 %); Clopper and Pearson's, which takes the thresholds for known,
    in 86 % where half of the loops are detected. Loops drawn with replacement hold a fraction near
    0 or 1 almost never. An arm's numbers do not change with the other arms. Raises ValueError as
    `thresholds.of_controls`.
    """
    L, G, _ = controls.shape
    null = thresholds.of_controls(controls, G, alpha, direction)
    counts = draws(np.random.default_rng(seed), L, resamples)
    mean_sd, bounds = moments(controls, counts), limits(controls, counts, null, L * G)
    judged = {}
    for name, loops in {CONTROL: controls, **arms}.items():
        rng = np.random.default_rng([seed, *name.encode()])
        if name == CONTROL:
            times = left_out_times(controls, alpha, direction)
            resampled = resampled_left_out_times(controls, counts, null)
            means = np.tensordot(counts / L, controls, 1)  # of the very loops of mean_sd
        else:
            times, resampled = alarm_times(null, loops), resampled_times(loops, *bounds)
            means = resampled_means(loops, resamples, rng)
        effects = standardised(means, *mean_sd)
        fractions = np.stack([resampled_fractions(resampled, g, rng) for g in range(G)], 1)
        detected = np.stack([(times <= g).sum(0) for g in range(G)])
        low, high = interval(fractions)
        judged[name] = Judged(
            times,
            resampled,
            fractions,
            (loops.mean(0) - null.mean) / null.sd,
            *interval(effects, L),
            detected,
            np.where(detected == 0, 0, low),  # Brown, Cai & DasGupta 2001, section 4.1.1
            np.where(detected == len(loops), 1, high),
        )
    return null, judged


def alarm_times(null, loops):
    """Alarm times (n, S) int of loops (n, G, S), G = null.horizon, judged by an thresholds.Null."""
    onsets = [null.onsets(loop) for loop in loops]
    times = [[null.horizon if at is None else at.generation for at in loop] for loop in onsets]
    return np.array(times)


def left_out_times(controls, alpha, direction):
    """Alarm times (L, S) of controls (L, G, S), each judged by the others only."""
    G = controls.shape[1]
    alarms = np.stack(list(thresholds.left_out_alarms(list(controls), G, alpha, direction)))
    return np.where(alarms.any(1), alarms.argmax(1), G)


# Resamples


def draws(rng, n, resamples):
    """How often (B, n) each of n loops is drawn with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)


def moments(controls, counts):
    """Mean and sd (B, S) of controls (L, G, S) of which loop l counts counts[b, l] times.

    Loops drawn twice would shrink the sd. With the weight w_i of a generation, sum_i w_i (x_i -
    mean)^2 / (1 - sum_i w_i^2) is unbiased whatever the weights, if generations are independent;
    for equal ones it is the ordinary variance. NaN where nothing is drawn.
    """
    G, centre = controls.shape[1], controls.mean((0, 1))
    deviation = controls - centre
    with np.errstate(invalid="ignore", divide="ignore"):
        w = counts / counts.sum(1, keepdims=True) / G
        mean, square = w @ deviation.sum(1), w @ (deviation**2).sum(1)
        variance = (square - mean**2) / (1 - G * (w**2).sum(1, keepdims=True))
    return centre + mean, np.sqrt(np.maximum(variance, 0))


def limits(controls, counts, null, n_null):
    """The values (lower (B, S), upper (B, S)) beyond which a stream alarms, from controls (L, G, S)
    drawn `counts` (B, L) times; infinite on a side without alarms, NaN if it is not monitored.

    They are as in `thresholds.of_controls` for n_null generations; for streams that `null` judges
    by rank, the k-th largest of the generations that were drawn, which leans to detection: it is
    never above that of all.
    """
    mean, sd = moments(controls, counts)
    sd = np.where(null.monitored, sd, np.nan)
    one_sided, two_sided = (
        thresholds.limit(n_null, null.horizon, null.alpha, both) for both in (False, True)
    )
    reach = np.where(null.direction == 0, two_sided, one_sided) * sd
    k = thresholds.rank(n_null, null.horizon, null.alpha)
    for s in np.flatnonzero(null.by_rank & (k > 0)):
        deviation = controls[None, :, :, s] - mean[:, None, None, s]  # (B, L, G)
        height = null.direction[s] * deviation if null.direction[s] else np.abs(deviation)
        drawn = np.where(counts[..., None] > 0, height, -np.inf).reshape(len(counts), -1)
        reach[:, s] = np.partition(drawn, -k, axis=1)[:, -k]
    nowhere = np.where(np.isnan(reach), np.nan, np.inf)
    lower = np.where(null.direction <= 0, mean - reach, -nowhere)
    return lower, np.where(null.direction >= 0, mean + reach, nowhere)


def resampled_times(loops, lower, upper):
    """Alarm times (B, n, S) of loops (n, G, S) with each of B limits (B, S)."""
    highest, lowest = np.maximum.accumulate(loops, 1), np.minimum.accumulate(loops, 1)
    times = np.zeros((len(lower), len(loops), loops.shape[2]), dtype=np.uint8)
    for g in range(loops.shape[1]):
        times += ~((highest[:, g] > upper[:, None]) | (lowest[:, g] < lower[:, None]))
    return times


def resampled_left_out_times(controls, counts, null):
    """Alarm times (B, L, S) of controls (L, G, S), each judged by what was drawn of the others."""
    L, G, _ = controls.shape
    times = []
    for i in range(L):
        others = counts * (np.arange(L) != i)
        bounds = limits(controls, others, null, (L - 1) * G)
        times.append(resampled_times(controls[i : i + 1], *bounds))
    return np.concatenate(times, 1)


def resampled_fractions(times, g, rng):
    """Fractions (B, S) of loops detected by generation g, from resampled alarm times (B, n, S).

    k of n loops stand for a draw of Beta(k + 1/2, n - k + 1/2), Jeffreys's, in place of loops drawn
    with replacement, which say "no doubt" wherever all loops or none are detected.
    """
    n, k = times.shape[1], (times <= g).sum(1)
    return rng.beta(k + 0.5, n - k + 0.5)


def interval(values, n=np.inf):
    """The 95 % percentile interval (low, high) of resamples (B, ...), from n independent units.

    For means of few units it takes Hesterberg's wider percentiles (2015, section 3.4: those of
    Student's t and of n - 1), without which 10 loops cover too rarely.
    """
    tail = 0.025
    if np.isfinite(n):
        tail = special.ndtr(-np.sqrt(n / (n - 1)) * stats.t.isf(tail, n - 1))
    return np.quantile(values, [tail, 1 - tail], axis=0)


def resampled_means(loops, resamples, rng):
    """Means (B, G, S) over loops (n, G, S): draws of Student's t about theirs, NaN for a single
    loop. Few loops that are drawn with replacement lie on one side of the truth too often."""
    n, shape = len(loops), (resamples, *loops.shape[1:])
    if n == 1:
        return np.full(shape, np.nan)
    error = loops.std(0, ddof=1) / np.sqrt(n)
    return loops.mean(0) + error * rng.standard_t(n - 1, size=shape)


def standardised(means, mean, sd):
    """Means (B, G, S) as effects in control sds, with mean and sd (B, S) of the controls."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (means - mean[:, None]) / sd[:, None]


# Counts


def clopper_pearson(k, n):
    """Exact 95 % interval (low, high) of a rate after k (array) of n (Clopper & Pearson 1934)."""
    k = np.asarray(k)
    low = np.where(k > 0, stats.beta.ppf(0.025, np.maximum(k, 1), n - k + 1), 0.0)
    return low, np.where(k < n, stats.beta.ppf(0.975, k + 1, np.maximum(n - k, 1)), 1.0)


def mcnemar(first, second):
    """Exact two-sided McNemar test (1947) of paired detections (n,) bool: (loops with the first
    only, with the second only, p-value)."""
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    return b, c, float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0


def least_p(n):
    """The smallest p-value that McNemar's test of n pairs can have."""
    return mcnemar(np.ones(n, bool), np.zeros(n, bool))[2]


def resampled_differences(first, second, rng):
    """Differences (B,) of two paired detection rates from resampled detections (B, n) bool.

    The four counts of pairs stand for a draw of Dirichlet(count + 1/2): half a loop in each, as
    Agresti & Min (2005) add, so that agreement of few loops is not taken for certain.
    """
    cells = [first & second, first & ~second, ~first & second, ~first & ~second]
    share = rng.gamma(np.stack([cell.sum(1) for cell in cells], 1) + 0.5)
    return (share[:, 1] - share[:, 2]) / share.sum(1)


def holm(p_values, n_claims=0):
    """Holm's adjusted p-values (1979), in the order given: reject where they are below alpha.
    n_claims: how many there are, with those that nothing was measured for yet."""
    p, order = np.asarray(p_values, dtype=np.float64), np.argsort(p_values, kind="stable")
    adjusted, n = np.empty_like(p), max(n_claims, len(p))
    steps = np.maximum.accumulate(np.arange(n, n - len(p), -1) * p[order])
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


# Doses


def half_dose(doses, fractions, n):
    """The dose (...,) at which rising fractions (..., D) of n (D,) loops reach 1/2.

    doses (D,) ascend and are positive; fractions are replaced by the rising ones nearest in squares
    weighted by n, and interpolated in the logarithm of the dose. 0 where the lowest dose is above
    1/2 already, infinite where the highest is below.
    """
    x, fractions = np.log(doses), np.asarray(fractions, dtype=np.float64)
    rising = np.apply_along_axis(lambda y: isotonic_regression(y, weights=n).x, -1, fractions)
    first = (rising >= 0.5).argmax(-1)  # 0 if none is
    lower = np.maximum(first - 1, 0)
    here, before = (np.take_along_axis(rising, i[..., None], -1)[..., 0] for i in (first, lower))
    step = np.where(here > before, here - before, 1)
    between = np.exp(x[lower] + (x[first] - x[lower]) * np.clip((0.5 - before) / step, 0, 1))
    found = np.where(first > 0, between, np.where(here > 0.5, 0.0, doses[0]))
    return np.where(here >= 0.5, found, np.inf)
