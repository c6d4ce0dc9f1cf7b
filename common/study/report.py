"""The answer of a study: its unit files, and nothing else, to tables, numbers, figures, a page.

study.csv has a row per arm, stream and generation; verdict.json the comparisons, doses and leads
that the protocol asks for, and the sentences that follow from them. Both are functions of the unit
files: resamples are seeded, and numbers are written to six digits.
"""

import json
import math
from typing import NamedTuple

import numpy as np

from common.detect import onset
from common.machine import storage
from common.machine.errors import Refusal, UserError
from common.run import provenance
from common.study import figures, page, power
from common.study.page import SCRIPT
from common.study.power import CONTROL

SCHEMA = 1
WAYS = {1: "up", -1: "down", 0: "either way"}


class Study(NamedTuple):
    """Loops that belong together: S streams `names` with their direction (S,); the controls (L, G,
    S); arms {name: (n, G, S)} in ascending order of doses {name: fraction synthetic}; seeds {name
    or "control": [...]}; facts, what the units say of themselves."""

    names: list
    direction: np.ndarray
    controls: np.ndarray
    arms: dict
    doses: dict
    seeds: dict
    facts: dict


class Question(NamedTuple):
    """What the protocol asks: is stream `primary` detected before `reference` and before `rival`,
    at a rate alpha of false alarms in each over generations 0 to horizon - 1?"""

    primary: str
    reference: str
    rival: str
    alpha: float
    horizon: int

    @property
    def streams(self):
        return list(dict.fromkeys([self.primary, self.reference, self.rival]))

    @property
    def ends(self):
        """The generations by which detections are compared: the first and the last."""
        return list(dict.fromkeys([0, self.horizon - 1]))


def write(
    folder,
    primary,
    alpha,
    horizon,
    reference="log FID",
    rival="log denoising loss t=50",
    role="test",
):
    """Writes study.csv, verdict.json, the figures and report.html to a folder of unit files.

    Only units of this role count. Returns the paths. Raises UserError where something is missing,
    Refusal where units do not belong together, naming the first file that does not.
    """
    question = Question(primary, reference, rival, alpha, horizon)
    study = read(folder, question, role)
    try:
        null, judged = power.judge(study.controls, study.arms, alpha, study.direction)
    except ValueError as error:
        raise UserError(f"{folder} cannot be judged: {error}") from error
    result = _plain(results(study, question, null, judged))
    table = _plain(rows(study, judged))
    storage.save_rows(table, folder / "study.csv")
    storage.save_json(result, folder / "verdict.json")
    seen = study, question, judged
    storage.save_figure(figures.mean_spectra(study, question, folder), folder / "spectra.png")
    storage.save_figure(figures.power_curves(*seen), folder / "power.png")
    storage.save_figure(figures.dose_response(*seen), folder / "dose_response.png")
    storage.save_figure(figures.leads(*seen, result["leads"]), folder / "leads.png")
    storage.save_text(page.page(folder, study, question, result, table), folder / "report.html")
    names = ["study.csv", "verdict.json", *figures.CAPTIONS, "report.html"]
    return [folder / name for name in names]


# Unit files


def read(folder, question, role):
    """The Study in the unit files of one role, in generations 0 to horizon - 1; raises as `write`.

    A stream that is not finite everywhere is left out and named in facts, unless the question is
    about it.
    """
    units, records, n_others = _of_role(folder, role)
    first = next(iter(units))
    values = {path: _values(path, unit, question.horizon) for path, unit in units.items()}
    names = units[first]["streams"].tolist()
    left_out = _not_finite(names, values, question)
    kept = [s for s, name in enumerate(names) if name not in left_out]
    arms, doses, seeds = {}, {}, {}
    for path, record in records.items():
        arm = CONTROL if record["control"] else record["arm"]
        arms.setdefault(arm, []).append(values[path][:, kept])
        seeds.setdefault(arm, []).append(record["seed"])
        if doses.setdefault(arm, record["dose"]) != record["dose"]:
            raise Refusal(f"loops of arm {arm} have doses {doses[arm]} and {record['dose']}")
    controls = np.stack(arms.pop(CONTROL))
    arms = {arm: np.stack(loops) for arm, loops in arms.items()}
    doses = {arm: doses[arm] for arm in arms}
    if len(set(doses.values())) < len(doses) or min(doses.values()) <= 0:
        raise Refusal(f"arms need doses above 0, each its own, but in {folder} they are {doses}")
    facts = {key: records[first][key] for key in ("study", "role", "protocol_sha256")}
    facts["commits"] = sorted({str(record["commit"]) for record in records.values()})
    facts |= {"n_of_other_roles": n_others, "left_out": left_out}
    direction = units[first]["directions"][kept]
    return Study([names[s] for s in kept], direction, controls, arms, doses, seeds, facts)


def _of_role(folder, role):
    """The arrays and records {path: ...} of the units of a role, by dose, arm and seed, and how
    many others there are."""
    units = {path: storage.load_arrays(path, SCRIPT) for path in sorted(folder.glob("*.npz"))}
    records = {path: json.loads(str(unit["record"])) for path, unit in units.items()}
    chosen = [path for path in units if records[path]["role"] == role]
    chosen.sort(key=lambda path: [records[path][key] for key in ("dose", "arm", "seed")])
    if not chosen:
        raise UserError(f"no unit of role {role} in {folder}: run {SCRIPT} first")
    for path in chosen:
        _check(path, chosen[0], units, records)
    n_controls = sum(records[path]["control"] for path in chosen)
    if n_controls < 2 or n_controls == len(chosen):
        raise UserError(
            f"{folder} has {n_controls} controls and {len(chosen) - n_controls} other loops of "
            f"role {role}: 2 controls and 1 loop are needed, run {SCRIPT}"
        )
    made = {path: provenance.from_json(path, records[path]["provenance"]) for path in chosen}
    controls = [made[path] for path in chosen if records[path]["control"]]
    for arm in {records[path]["arm"] for path in chosen} - {CONTROL}:
        loops = [made[path] for path in chosen if records[path]["arm"] == arm]
        provenance.check_loops(loops)
        provenance.check_controls(loops, controls)
    of_role = ({path: of[path] for path in chosen} for of in (units, records))
    return *of_role, len(units) - len(chosen)


def _not_finite(names, values, question):
    """{stream: the first unit in which it is not finite}; raises if the question is about it."""
    left_out = {}
    for path, of in values.items():
        for s in np.flatnonzero(~np.isfinite(of).all(0)):
            left_out.setdefault(names[s], path.name)
    for name in question.streams:
        if name not in names:
            raise UserError(f"there is no stream {name!r}; there are: {', '.join(names)}")
        if name in left_out:
            raise UserError(f"{name} is not finite in {left_out[name]}: make that unit anew")
    return left_out


def _check(path, first, units, records):
    """Raises a Refusal unless a unit is what its name says and belongs to the first one."""
    record, other = records[path], records[first]
    if path.stem != f"{record['arm']}_seed{record['seed']}":
        raise Refusal(f"{path.name} holds {record['arm']}, seed {record['seed']}: name it back")
    if record["schema"] != SCHEMA:
        raise Refusal(f"{path.name} has schema {record['schema']}, not {SCHEMA}: make it anew")
    for key in ("study", "protocol_sha256"):  # a pilot has no protocol, or a draft
        if record[key] != other[key] and (key, record["role"]) != ("protocol_sha256", "pilot"):
            raise Refusal(f"{path.name} has another {key} than {first.name}: they do not mix")
    for key in ("streams", "directions"):
        if units[path][key].tolist() != units[first][key].tolist():
            raise Refusal(f"{path.name} has other {key} than {first.name}: they do not mix")


def _values(path, unit, horizon):
    """The values (G, S) of a unit in generations 0 to horizon - 1."""
    index = np.flatnonzero(unit["generations"] >= 0)[:horizon]
    if unit["generations"][index].tolist() != list(range(horizon)):
        raise Refusal(
            f"{path.name} lacks generations: it has {unit['generations'].tolist()}, the horizon "
            f"is generations 0 to {horizon - 1}"
        )
    return unit["values"][index].astype(np.float64)


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
        "schema": SCHEMA,
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
        "streams": {
            name: {
                "direction": WAYS[int(null.direction[s])],
                "mean": null.mean[s],
                "sd": null.sd[s],
                "threshold": null.threshold[s],
                "method": "rank" if null.by_rank[s] else "Gaussian",
                "normality": null.normality[s],
            }
            for s, name in enumerate(study.names)
        },
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
    return {"controls": n, "alarms": count, "certified_rate": onset.certified_rate(count, n)}


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
                proven = p_value < question.alpha
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
    the two (each is tested at alpha: Berger 1982); p_holm counts all arms and ends as claims."""
    found = []
    for one, two in zip(comparisons[::2], comparisons[1::2], strict=True):
        # A test of detections that are more frequent the other way supports no claim.
        p = max(pair["p_value"] if pair["difference"] > 0 else 1.0 for pair in (one, two))
        both = one["before"] and two["before"]
        found.append({"arm": one["arm"], "by_generation": one["by_generation"], "p_value": p})
        found[-1]["first"] = both
    for claim, p in zip(found, power.holm([claim["p_value"] for claim in found]), strict=True):
        claim |= {"p_holm": p, "first_holm": bool(claim["first"] and p < question.alpha)}
    return found


def _half_doses(study, question, judged):
    """The dose at 50 % power of the question's streams, {by generation: {stream: {...}}}."""
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
            bracketed = {"dose": dose or None, "low": low or None, "high": high or None}
            of[name] = {**bracketed, "text": text}
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
        for s, name in enumerate(study.names):
            if s != p:
                leads = [onset.lead(row[p], row[s], question.horizon) for row in times]
                summary = onset.summarise_leads(leads, n_resamples=power.RESAMPLES)
                found.setdefault(arm, {})[name] = {**summary, "text": page.lead_text(summary)}
    summaries = [summary for of in found.values() for summary in of.values()]
    adjusted = power.holm([summary["p_value"] for summary in summaries])
    for summary, p_holm in zip(summaries, adjusted, strict=True):
        summary["p_holm"] = p_holm
    return found


def _plain(value):
    """A result for strict JSON and CSV: numbers of six digits, None for infinite and NaN."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
