"""What the MAD paper claims (Alemohammad et al. 2023, arXiv 2307.01850), and what loops show of it.

Each claim is about how precision, recall or FID change in a loop, of the samples that the next
generation trains on: guided ones where w > 0.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from common.detect.streams import FID, METRICS
from common.seeds import INITIAL

PRECISION, RECALL = METRICS["precision"].name, METRICS["recall"].name
LEAST_LOOPS = 3  # of each arm, for an interval


class Claim(NamedTuple):
    """That the change of a metric in an arm, from generation `since` to the last, has this sign;
    or, with `against`, its difference from the change in that arm."""

    text: str
    metric: str
    sign: int
    arm: str
    against: str | None = None
    since: int = INITIAL


CLAIMS = [
    Claim("w = 0: precision falls", PRECISION, -1, "full"),
    Claim("w = 0: recall falls", RECALL, -1, "full"),
    Claim("w = 0: FID rises", FID, 1, "full"),
    Claim("w = 1: precision does not fall", PRECISION, 1, "full_w1"),
    Claim("w = 1: precision falls less than at w = 0", PRECISION, 1, "full_w1", "full"),
    Claim("w = 1: recall falls", RECALL, -1, "full_w1"),
    Claim("w = 1: recall falls faster than at w = 0", RECALL, -1, "full_w1", "full"),
    Claim("w = 1: FID rises", FID, 1, "full_w1"),
]
for _w, _full, _fixed, _fresh in (
    (0, "full", "augmented", "dose50"),
    (1, "full_w1", "augmented_w1", "fresh_w1"),
):
    CLAIMS += [
        Claim(f"w = {_w}: fixed real data slow the fall of recall", RECALL, 1, _fixed, _full),
        Claim(f"w = {_w}: fixed real data slow the rise of FID", FID, -1, _fixed, _full),
        Claim(f"w = {_w}: fixed real data do not stop the rise of FID", FID, 1, _fixed, since=0),
        Claim(f"w = {_w}: fresh real data stop the rise of FID", FID, -1, _fresh, since=0),
        Claim(f"w = {_w}: FID rises less with fresh data", FID, -1, _fresh, _fixed, since=0),
        Claim(f"w = {_w}: recall falls less with fresh data", RECALL, 1, _fresh, _fixed, since=0),
    ]


def rows(loops, horizon):
    """A row per claim, of the `files.Kept`s of a study, whose last generation is horizon - 1.

    change: the mean over loops of the change of log FID, or of precision and recall as a fraction
    of where they began (recall that begins lower has less to lose), with `against` the difference
    of two such means; low and high: its 95 % interval by Student's t, Welch's for two arms.
    verdict: "holds" or "does not", as the interval lies on the claim's side of 0 or on the other;
    "not at this scale" where it contains 0 or an arm has fewer than LEAST_LOOPS loops; "not run"
    where it has none; "not defined" where a metric began at 0; "not comparable" where samples
    are not as many everywhere, on which FID and recall depend. So that a metric does not
    fall is said to hold only where it rises: no number of loops shows that nothing happens. Raises
    Refusal where a loop lacks generations.
    """
    found = []
    for claim in CLAIMS:
        arms = [arm for arm in (claim.arm, claim.against) if arm]
        changes = [_changes(loops, arm, claim, horizon) for arm in arms]
        change, low, high = _interval(*changes)
        sizes = {n for loop in loops if loop.record["arm"] in arms for n in _sizes(loop)}
        row = {"claim": claim.text, "metric": claim.metric, "arm": claim.arm}
        row |= {"since": "initial" if claim.since == INITIAL else claim.since}
        row |= {"loops": len(changes[0]), "against": claim.against}
        row |= {"loops_against": len(changes[1]) if claim.against else None}
        row |= {"change": change, "low": low, "high": high}
        verdict = _verdict(claim.sign, change, low, high)
        found.append({**row, "verdict": "not comparable" if len(sizes) > 1 else verdict})
    return found


def _sizes(loop):
    """Of how many samples a loop's metrics are, as far as it says so."""
    n = loop.arrays.get("N_guided", loop.record["provenance"].get("N_eval"))
    return {float(each) for each in np.ravel(n) if each is not None}


def _changes(loops, arm, claim, horizon):
    """The change (n,) of the claim's metric in the n loops of an arm that measured it."""
    found = []
    for loop in loops:
        kind = "guided_" if "guided_streams" in loop.arrays else ""
        names = loop.arrays[kind + "streams"].tolist()
        if loop.record["arm"] == arm and claim.metric in names:
            values = loop.values(horizon, kind)[:, names.index(claim.metric)]
            first, last = values[claim.since - INITIAL], values[-1]
            with np.errstate(divide="ignore", invalid="ignore"):
                found.append(last - first if claim.metric == FID else (last - first) / first)
    return np.array(found)


def _interval(changes, against=None):
    """The mean of changes (n,), or its difference from that of others (m,), None without loops, and
    its 95 % interval, NaN where loops are too few."""
    groups = [changes] if against is None else [changes, against]
    n = min(map(len, groups))
    if n == 0:
        return None, np.nan, np.nan
    with np.errstate(invalid="ignore"):
        mean = groups[0].mean() - sum(group.mean() for group in groups[1:])
    if n < LEAST_LOOPS or not np.isfinite(mean):
        return mean, np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of changes that are all the same
        if against is None:
            test = stats.ttest_1samp(changes, 0)
        else:
            test = stats.ttest_ind(changes, against, equal_var=False)
    return mean, *test.confidence_interval(0.95)


def _verdict(sign, change, low, high):
    if change is None:
        return "not run"
    if not np.isfinite(change):
        return "not defined"
    if low * sign > 0 and high * sign > 0:
        return "holds"
    return "does not" if low * sign < 0 and high * sign < 0 else "not at this scale"
