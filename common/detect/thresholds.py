"""When did a stream of per-generation numbers leave its null?

The null is what control loops show: every generation a fresh model trained on real data, so that
generations are exchangeable draws. A stream is standardised by the mean and sd of all control
generations, and alarms at the first generation whose z-score lies beyond one threshold, on the
side that its direction names. Every stream has `alpha` for itself: the chance that a loop without
change alarms in this stream, in any generation up to the horizon, over sets of controls as well.
So two streams that are compared had the same chance of a false start, however many are watched.

The threshold is `limit`, exact for Gaussian streams. A stream whose controls are visibly not
Gaussian is judged by `rank` instead, the largest of its control generations: for any distribution,
exactly if one-sided and chosen beforehand, not by a test of the same controls, and only where there
are enough of them (19 control loops for 5 %). Generations that
are positively correlated, as those of a loop are that share real images, alarm no more often
(Slepian 1962). Nothing accumulates over generations, which would need them independent: a lasting
shift of 1 sd or less is found more rarely than by a CUSUM, a growing one as early.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq

NOT_GAUSSIAN = 0.01  # p-value of a test of normality below which a stream is called so
WAYS = {1: "up", -1: "down", 0: "either way"}  # directions and signs in words


@functools.lru_cache(maxsize=256)
def limit(n_null, horizon, alpha, two_sided=False):
    """The z-score (float) that the largest of `horizon` Gaussian z-scores exceeds with probability
    alpha, where mean and sd are those of n_null other generations; two_sided: the largest |z|.

    P(max_g (Z_g - M) / S <= h) = E[Phi(h S + M)^horizon] with M ~ N(0, 1 / n_null) and (n_null - 1)
    S^2 ~ chi^2, by Gauss quadrature; for one generation a quantile of Student's t. Raises
    ValueError unless n_null >= 2, horizon >= 1 and 0 < alpha < 1.
    """
    if n_null < 2 or horizon < 1 or not 0 < alpha < 1:
        raise ValueError("a threshold needs n_null >= 2, horizon >= 1 and 0 < alpha < 1")
    # Nodes and weights of S, an integral over v in [0, 1] where v^3 is S's distribution function,
    # so that most nodes are at small S; and of M, along the other axis.
    x, weight = np.polynomial.legendre.leggauss(200)
    v = (x + 1) / 2
    S = np.sqrt(stats.chi2.ppf(v**3, n_null - 1) / (n_null - 1))
    x, normal = np.polynomial.hermite_e.hermegauss(60)
    M = x[:, None] / np.sqrt(n_null)
    weights = (normal / normal.sum())[:, None] * (1.5 * weight * v**2)

    def excess(h):
        """P(max > h) - alpha, of log P(one generation is within h) for each S and M."""
        if two_sided:
            inside = np.log(np.maximum(special.ndtr(h * S + M) - special.ndtr(M - h * S), 1e-300))
        else:
            inside = special.log_ndtr(h * S + M)
        return (weights * -np.expm1(horizon * inside)).sum() - alpha

    t = stats.t(n_null - 1, scale=np.sqrt(1 + 1 / n_null))
    sides = 1 + two_sided
    low, high = t.isf(alpha / sides), t.isf(alpha / sides / horizon)  # one generation; Bonferroni
    return float(brentq(excess, low - 1e-3 * abs(low) - 1e-6, high + 1e-3 * abs(high) + 1e-6))


def rank(n_null, horizon, alpha):
    """k (int) such that with probability alpha at most the largest of `horizon` generations exceeds
    the k-th largest of n_null exchangeable others; 0 if even their largest is exceeded more often.

    None exceeds it if the k largest of all are among the n_null: prod_{i < k} (n_null - i) /
    (n_null + horizon - i).
    """
    none = 1.0
    for k in range(n_null):
        none = none * (n_null - k) / (n_null + horizon - k)
        if none < 1 - alpha - 1e-12:
            return k
    return n_null


@dataclass(frozen=True, eq=False)
class Null:
    """What S streams do without change. Shapes (S,): mean, sd (NaN if not monitored), direction
    (1: alarms upwards, -1: downwards, 0: both ways), threshold of the z-score in that direction,
    by_rank (bool: set by `rank`, not by `limit`), and normality, the p-value of Shapiro and Wilk's
    test (1965) of the control generations, NaN below 3 of them; alarms are judged in the first
    `horizon` generations."""

    mean: np.ndarray
    sd: np.ndarray
    direction: np.ndarray
    threshold: np.ndarray
    by_rank: np.ndarray
    normality: np.ndarray
    horizon: int
    alpha: float

    @property
    def monitored(self):
        """Which streams vary in the controls (S,): the others have no scale."""
        return ~np.isnan(self.sd)

    def described(self, s):
        """What tables and JSON say of stream s, as a dict."""
        return {
            "direction": WAYS[int(self.direction[s])],
            "mean": self.mean[s],
            "sd": self.sd[s],
            "threshold": self.threshold[s],
            "method": "rank" if self.by_rank[s] else "Gaussian",
            "normality": self.normality[s],
        }

    def z(self, loop):
        """Standardised loop, (G', S) to (G', S); columns that are not monitored are NaN.

        Raises ValueError for NaN or infinite values, or other streams.
        """
        loop = _checked(loop, "loop")
        if loop.shape[1] != len(self.mean):
            raise ValueError(f"loop has {loop.shape[1]} streams, the controls {len(self.mean)}")
        return (loop - self.mean) / self.sd

    def alarms(self, loop):
        """The sign of the deviation where a loop (G', S) alarms, else 0; int (G', S), 0 beyond the
        horizon."""
        z = self.z(loop)
        sign = np.where(self.direction == 0, np.sign(z), self.direction)
        beyond = z * sign > self.threshold
        beyond[self.horizon :] = False
        return np.where(beyond, sign, 0).astype(int)

    def onsets(self, loop):
        """The first alarm of each stream of a loop (G', S): a list of S Onsets, None without."""
        alarms = self.alarms(loop)
        first = np.abs(alarms).argmax(0)
        signs = alarms[first, np.arange(alarms.shape[1])]
        return [Onset(int(g), int(s)) if s else None for g, s in zip(first, signs, strict=True)]


class Onset(NamedTuple):
    """A first alarm: its generation, from 0, and its sign, 1 for upwards and -1 for downwards."""

    generation: int
    sign: int


@dataclass(frozen=True, eq=False)
class Calibration(Null):
    """A Null of all L controls, and its trial on them.

    control_alarms (L, S) bool says where a control loop, left out in turn, alarms against the
    others; certified_rate (S,) is the upper 95 % bound on the false-alarm rate that these counts
    support, family_rate that of any alarm in any stream.

    Simulated (tests/test_onset.py; 12 correlated streams, horizon 6, alpha 5 %): false alarms in
    5.0 % of loops with 5 and with 20 controls of 6 generations if streams are Gaussian; 11 and 6 %
    for Student's t with 3 degrees of freedom, 18 and 6 % for log-normal streams (log sd 0.5), 14
    and 5 % where 2 % of trainings fail. The true rate was above certified_rate in at most 4 % of
    sets of controls. So few controls of unknown tails promise no more than their count.
    """

    control_alarms: np.ndarray
    certified_rate: np.ndarray
    family_rate: float


def of_controls(controls, horizon, alpha, direction):
    """The Null of control loops [(G_l, S), ...] for the first `horizon` generations of a loop.

    direction (S,): 1, -1 or 0 for each stream. Mean and sd are those of all control generations,
    of controls that are longer than the horizon too. Raises ValueError for NaN or infinite values,
    fewer than 2 generations in all, and where a control is shorter than the horizon.
    """
    controls = [_checked(control, "controls") for control in controls]
    if min(map(len, controls)) < horizon:
        raise ValueError(f"a control is shorter than the horizon of {horizon} generations")
    pooled, direction = np.concatenate(controls), np.asarray(direction)
    if len(pooled) < 2:
        raise ValueError("one control generation has no sd: give more generations or loops")
    # A constant stream can have sd 1e-17 by rounding: only the range shows that it has no scale.
    varies = np.ptp(pooled, 0) > 1e-12 * np.abs(pooled).max(0)
    sd = np.where(varies, pooled.std(0, ddof=1), np.nan)
    one_sided, two_sided = (limit(len(pooled), horizon, alpha, both) for both in (False, True))
    threshold = np.where(direction == 0, two_sided, one_sided)
    normality = np.array(
        [
            stats.shapiro(stream).pvalue if used and len(stream) > 2 else np.nan
            for stream, used in zip(pooled.T, varies, strict=True)
        ]
    )
    k = rank(len(pooled), horizon, alpha)
    by_rank = (normality < NOT_GAUSSIAN) & (k > 0)
    if by_rank.any():
        z = (pooled - pooled.mean(0)) / sd
        heights = np.sort(np.where(direction == 0, np.abs(z), direction * z), 0)
        threshold = np.where(by_rank, heights[-k], threshold)
    mean = pooled.mean(0)
    return Null(mean, sd, direction, threshold, by_rank, normality, horizon, alpha)


def calibrate(controls, horizon, alpha, direction):
    """The Calibration of control loops [(G_l, S), ...], L >= 2, as in `of_controls`.

    Each control loop is judged in its first `horizon` generations by the others only, whose
    generations must be at least 2. These trials share controls, for which certified_rate makes no
    allowance; in simulations their count varied no more than a binomial one. Raises ValueError
    where `of_controls` does.
    """
    null = of_controls(controls, horizon, alpha, direction)
    left_out = left_out_alarms(controls, horizon, alpha, direction)
    alarms = np.array([control.any(0) for control in left_out])
    return Calibration(
        **vars(null),
        control_alarms=alarms,
        certified_rate=np.array([certified_rate(int(n), len(alarms)) for n in alarms.sum(0)]),
        family_rate=certified_rate(int(alarms.any(1).sum()), len(alarms)),
    )


def left_out_alarms(controls, horizon, alpha, direction):
    """Where each of the control loops [(G_l, S), ...] alarms when the others judge it: yields bool
    (horizon, S). What is constant in the others gives no sd, so any deviation counts."""
    for i, control in enumerate(controls):
        judge = of_controls([*controls[:i], *controls[i + 1 :]], horizon, alpha, direction)
        differs = np.abs(control - judge.mean) > 1e-12 * np.abs(judge.mean)
        yield ((judge.alarms(control) != 0) | (~judge.monitored & differs))[:horizon]


def _checked(values, name):
    """`values` as float64 (generations, streams), its shape and finiteness checked."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}, not a filled (generations, streams)")
    if len(bad := np.flatnonzero(~np.isfinite(values).all(0))):
        named = ", ".join(map(str, bad))
        raise ValueError(f"{name} holds NaN or infinite values in stream {named}: drop the stream")
    return values


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
