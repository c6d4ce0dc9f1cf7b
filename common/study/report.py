"""The answer of a study: what is kept in its folder, to tables, numbers, figures, a page.

study.csv has a row per arm, stream and generation; verdict.json the comparisons, doses and leads
that the protocol asks for, and the sentences that follow from them; claims.csv what the loops show
of the MAD paper's claims. All are functions of the unit files, of how many were planned and of
what streams cost: resamples are seeded, and numbers are written to six digits.
"""

import math
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from common.detect import leads
from common.detect.streams import FID
from common.detect.thresholds import certified_rate
from common.detect.verdict import plain
from common.machine import storage
from common.machine.errors import UserError
from common.study import claims, figures, files, page, power
from common.study.power import CONTROL

DIGITS = 6  # of all numbers that are written
COSTS = "costs.csv"  # what tests/benchmarks/streams.py leaves beside the unit files


class Question(NamedTuple):
    """What the protocol asks: is stream `primary` detected before `reference` and before `rival`,
    at a rate alpha of false alarms in each over generations 0 to horizon - 1? planned: {arm: how
    many loops there are to be}."""

    primary: str
    reference: str
    rival: str
    alpha: float
    horizon: int
    planned: dict = MappingProxyType({})

    @property
    def streams(self):
        return list(dict.fromkeys([self.primary, self.reference, self.rival]))

    @property
    def ends(self):
        """The generations by which detections are compared: the first and the last."""
        return list(dict.fromkeys([0, self.horizon - 1]))

    def n_claims(self, arms):
        """How many claims "first" Holm's correction counts, with these arms and those planned."""
        return len(self.ends) * len({*arms, *self.planned} - {CONTROL})


def write(
    folder,
    primary,
    alpha,
    horizon,
    reference=FID,
    rival="log denoising loss t=50",
    role="test",
):
    """Writes study.csv, verdict.json, claims.csv, the figures and report.html to a folder of unit
    files.

    Only units of this role count. Returns the paths. Raises UserError where something is missing,
    Refusal where units do not belong together, naming the first file that does not.
    """
    plan = folder / files.PLAN
    planned = storage.load_json(plan) if role == "test" and plan.exists() else {}
    question = Question(primary, reference, rival, alpha, horizon, planned)
    loops, n_others = files.load(folder, role)
    study = files.study(loops, question, n_others)
    try:
        null, judged = power.judge(study.controls, study.arms, alpha, study.direction)
    except ValueError as error:
        raise UserError(f"{folder} cannot be judged: {error}") from error
    costs = storage.load_rows(folder / COSTS)  # measured once; none where nobody did
    result = plain({**results(study, question, null, judged), "costs": costs}, DIGITS)
    table = plain(rows(study, judged), DIGITS)
    storage.save_rows(table, folder / "study.csv")
    claimed = plain(claims.rows(loops, horizon), DIGITS)
    storage.save_rows(claimed, folder / "claims.csv")
    storage.save_json(result, folder / "verdict.json")
    seen = study, question, judged
    storage.save_figure(figures.mean_spectra(study, question, folder), folder / "spectra.png")
    storage.save_figure(figures.power_curves(*seen), folder / "power.png")
    storage.save_figure(figures.dose_response(*seen), folder / "dose_response.png")
    storage.save_figure(figures.leads(*seen, result["leads"]), folder / "leads.png")
    text = page.page(folder, study, question, result, table, claimed)
    storage.save_text(text, folder / "report.html")
    names = ["study.csv", "verdict.json", "claims.csv", *figures.CAPTIONS, "report.html"]
    return [folder / name for name in names]


# Numbers


def rows(study, judged):
    """The rows of study.csv."""
    table = []
    for arm, of in judged.items():
        n = len(of.times)
        exact_low, exact_high = power.clopper_pearson(of.detected, n)
        for s, name in enumerate(study.names):
            for g in range(len(of.effect)):
                row = {"arm": arm, "dose": study.doses.get(arm, 0.0), "stream": name}
                row |= {"generation": g, "n": n, "effect": of.effect[g, s]}
                row |= {"effect_low": of.effect_low[g, s], "effect_high": of.effect_high[g, s]}
                row |= {"detected": of.detected[g, s], "fraction": of.detected[g, s] / n}
                row |= {"fraction_low": of.low[g, s], "fraction_high": of.high[g, s]}
                row |= {"exact_low": exact_low[g, s], "exact_high": exact_high[g, s]}
                table.append(row)
    return table


def results(study, question, null, judged):
    """What verdict.json holds."""
    alarms = judged[CONTROL].times < question.horizon
    comparisons = _comparisons(study, question, judged)
    result = {
        "schema": files.SCHEMA,
        **study.facts,
        **question._asdict(),
        "resamples": power.RESAMPLES,
        "loops": {
            arm: {"n": len(of.times), "seeds": study.seeds[arm]} for arm, of in judged.items()
        },
        "doses": study.doses,
        "false_alarms": {
            "any stream": _false_alarms(alarms.any(1)),
            **{name: _false_alarms(alarms[:, s]) for s, name in enumerate(study.names)},
        },
        "streams": {name: null.described(s) for s, name in enumerate(study.names)},
        "comparisons": comparisons,
        "first": _first(question, comparisons),
        "half_doses": _half_doses(study, question, judged),
        "leads": _leads(study, question, judged),
    }
    result["verdict"] = page.verdict(study, question, result)
    return result


def _false_alarms(alarms):
    """Of L controls that alarm or not, each judged by the others."""
    count, n = int(alarms.sum()), len(alarms)
    return {"controls": n, "alarms": count, "certified_rate": certified_rate(count, n)}


def _comparisons(study, question, judged):
    """The primary against reference and rival: a dict per arm, end of the horizon and opponent."""
    found = []
    for arm in study.arms:
        of, rng = judged[arm], np.random.default_rng([1, *arm.encode()])
        for g in question.ends:
            early, resampled = of.times <= g, of.resampled_times <= g
            p = study.names.index(question.primary)
            for name in (question.reference, question.rival):
                s = study.names.index(name)
                only, other, p_value = power.mcnemar(early[:, p], early[:, s])
                difference = (only - other) / len(early)
                draws = power.resampled_differences(resampled[:, :, p], resampled[:, :, s], rng)
                low, high = power.interval(draws)
                low, high = -1 if other == len(early) else low, 1 if only == len(early) else high
                proven = p_value < power.SIGNIFICANT
                found.append(
                    {
                        "arm": arm,
                        "by_generation": g,
                        "against": name,
                        "n": len(early),
                        "primary_detected": int(early[:, p].sum()),
                        "against_detected": int(early[:, s].sum()),
                        "primary_only": only,
                        "against_only": other,
                        "p_value": p_value,
                        "difference": difference,
                        "difference_low": low,
                        "difference_high": high,
                        "before": bool(proven and difference > 0 and low > 0),
                        "after": bool(proven and difference < 0 and high < 0),
                    }
                )
    return found


def _first(question, comparisons):
    """A dict per arm and end: is the primary before reference and rival? p_value is the larger of
    the two (each is tested at 5 %: Berger 1982); p_holm counts all arms and ends as claims, those
    of arms that are planned, too."""
    found = []
    for one, two in zip(comparisons[::2], comparisons[1::2], strict=True):
        # A test of detections that are more frequent the other way supports no claim.
        p = max(pair["p_value"] if pair["difference"] > 0 else 1.0 for pair in (one, two))
        both = one["before"] and two["before"]
        found.append({"arm": one["arm"], "by_generation": one["by_generation"], "p_value": p})
        found[-1]["first"] = both
    adjusted = power.holm(
        [claim["p_value"] for claim in found],
        question.n_claims(pair["arm"] for pair in comparisons),
    )
    for claim, p in zip(found, adjusted, strict=True):
        claim |= {"p_holm": p, "first_holm": bool(claim["first"] and p < power.SIGNIFICANT)}
    return found


def _half_doses(study, question, judged):
    """The dose at 50 % power of the question's streams, {by generation: {stream: {...}}}: 0 below
    all doses, infinite (null in JSON) above. The interval takes the loops of arms as independent,
    apart from the controls, though those of one seed may begin with the same initial model."""
    doses, n = list(study.doses.values()), [len(loops) for loops in study.arms.values()]
    found = {}
    for g in question.ends:
        of = found[f"by generation {g}"] = {}
        for name in question.streams:
            s = study.names.index(name)
            here = np.array([judged[arm].detected[g, s] for arm in study.arms]) / n
            drawn = np.stack([judged[arm].fractions[:, g, s] for arm in study.arms], 1)
            dose = float(power.half_dose(doses, here, n))
            resampled = power.half_dose(doses, drawn, n)
            low = float(np.quantile(resampled, 0.025, method="lower"))
            high = float(np.quantile(resampled, 0.975, method="higher"))
            text = (
                f"{_dose(dose, doses)} (95 % interval {_dose(low, doses)} to {_dose(high, doses)})"
            )
            of[name] = {"dose": dose, "low": low, "high": high, "text": text}
    return found


def _dose(dose, doses):
    """A dose in per cent, or on which side of all doses it lies."""
    if dose == 0:
        return f"below {min(doses):.0%}"
    return f"above {max(doses):.0%}" if math.isinf(dose) else f"{dose:.0%}"


def _leads(study, question, judged):
    """Leads of the primary, {arm: {other stream: summary}}; p_holm counts all of them as claims."""
    found, p = {}, study.names.index(question.primary)
    for arm in study.arms:
        times = [
            [None if t == question.horizon else int(t) for t in row] for row in judged[arm].times
        ]
        resampled = judged[arm].resampled_times
        for s, name in enumerate(study.names):
            if s != p:
                of = [leads.lead(row[p], row[s], question.horizon) for row in times]
                both = resampled[..., p], resampled[..., s]
                limits = leads.limits(*both, question.horizon)
                summary = leads.summarise(of, resampled=limits)
                found.setdefault(arm, {})[name] = {**summary, "text": _lead_text(summary)}
    summaries = [summary for of in found.values() for summary in of.values()]
    adjusted = power.holm([summary["p_value"] for summary in summaries])
    for summary, p_holm in zip(summaries, adjusted, strict=True):
        summary["p_holm"] = p_holm
    return found


def _lead_text(summary):
    """A summary of leads in words."""
    median, interval = leads.in_words(summary)
    return (
        f"median {median} ({interval}); first in {summary['n_candidate_first']}, after in "
        f"{summary['n_reference_first']}, {summary['n_ties']} ties, {summary['n_undefined']} "
        f"without alarm, sign test p = {summary['p_value']:.2g}"
    )
