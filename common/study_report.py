"""The answer of a study: its unit files, and nothing else, to tables, numbers, figures, a page.

study.csv has a row per arm, stream and generation; verdict.json the comparisons, doses and leads
that the protocol asks for, and the sentences that follow from them. Both are functions of the unit
files: resamples are seeded, and numbers are written to six digits.
"""

import json
import math
from typing import NamedTuple

import numpy as np

from common import elements, onset, power, storage, study_figures
from common.errors import Refusal, UserError
from common.power import CONTROL

SCHEMA = 1
SCRIPT = "jacobian/study.py"
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
    storage.save_figure(study_figures.power_curves(*seen), folder / "power.png")
    storage.save_figure(study_figures.dose_response(*seen), folder / "dose_response.png")
    storage.save_figure(study_figures.leads(*seen, result["leads"]), folder / "leads.png")
    storage.save_text(_page(folder, study, question, result, table), folder / "report.html")
    names = ["study.csv", "verdict.json", *study_figures.CAPTIONS, "report.html"]
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
    result["verdict"] = _verdict(study, question, result)
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
                        "before": bool(difference > 0 and p_value < question.alpha and low > 0),
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
                found.setdefault(arm, {})[name] = {**summary, "text": _lead_text(summary)}
    summaries = [summary for of in found.values() for summary in of.values()]
    adjusted = power.holm([summary["p_value"] for summary in summaries])
    for summary, p_holm in zip(summaries, adjusted, strict=True):
        summary["p_holm"] = p_holm
    return found


# Sentences


def _verdict(study, question, result):
    """The numbers in words: the answer first, then what it rests on."""
    lines = [_answer(question, result["first"])]
    lines.append(
        f"Judged were generations 0 to {question.horizon - 1} of {len(study.controls)} controls, "
        + ", ".join(f"{len(loops)} loops of {arm}" for arm, loops in study.arms.items())
        + f" (study {study.facts['study']}, role {study.facts['role']}); "
        f"{study.facts['n_of_other_roles']} units of other roles do not count."
    )
    if study.facts["left_out"]:
        lines.append(f"Not judged, because not finite: {', '.join(study.facts['left_out'])}.")
    for name in question.streams:
        of = result["false_alarms"][name]
        lines.append(
            f"{name}: {of['alarms']} of {of['controls']} controls alarm against the others, which "
            f"bounds the false-alarm rate at {of['certified_rate']:.0%}, no less."
        )
    pairs = iter(result["comparisons"])
    for claim in result["first"]:
        lines.append(_comparison_text(study, question, claim, next(pairs), next(pairs)))
    for end, of in result["half_doses"].items():
        texts = "; ".join(f"{name} {of[name]['text']}" for name in question.streams)
        lines.append(f"Dose at 50 % power {end}: {texts}.")
    for arm, of in result["leads"].items():
        for name in question.streams[1:]:
            lines.append(f"{arm}: lead of {question.primary} over {name}: {of[name]['text']}.")
    lines.append(
        "Loops that are judged by the same controls share their error, which McNemar's test and "
        "the sign test do not know: before also asks that the interval of the difference, over "
        "loops and controls, is above 0; p-values of leads are secondary."
    )
    return "\n".join(lines)


def _answer(question, claims):
    """Where the primary was first, as the protocol defines it."""
    where = [f"{c['arm']} by generation {c['by_generation']}" for c in claims if c["first"]]
    holm = [f"{c['arm']} by generation {c['by_generation']}" for c in claims if c["first_holm"]]
    both = f"before {question.reference} and before {question.rival}"
    if not where:
        return f"{question.primary} was not first: nowhere was it detected {both}."
    return (
        f"{question.primary} was first, {both}, each at {question.alpha:.0%}, in "
        f"{', '.join(where)}; with Holm's correction over {len(claims)} claims in "
        f"{', '.join(holm) or 'none'}."
    )


def _comparison_text(study, question, claim, *pairs):
    against = "; ".join(
        f"{pair['against']} in {pair['against_detected']} (difference {_difference(pair)}, McNemar "
        f"p = {pair['p_value']:.2g})"
        for pair in pairs
    )
    kind = "first" if claim["first"] else "not first"
    return (
        f"{claim['arm']} ({study.doses[claim['arm']]:.0%} synthetic), by generation "
        f"{claim['by_generation']}: {question.primary} detected in {pairs[0]['primary_detected']} "
        f"of {pairs[0]['n']}; {against}: {kind}."
    )


def _difference(pair):
    low, high = pair["difference_low"], pair["difference_high"]
    return f"{pair['difference']:+.0%}, {low:+.0%} to {high:+.0%}"


def _lead_text(lead):
    """A summary of leads in words."""
    median = f"{lead['median_low']:g}"
    if lead["median_is"] in ("at least", "at most"):
        limit = lead["median_low" if lead["median_is"] == "at least" else "median_high"]
        median = f"{lead['median_is']} {limit:g}"
    elif lead["median_is"] != "exact":
        median = lead["median_is"].replace(
            "between", f"between {median} and {lead['median_high']:g}"
        )
    low, high = (
        "no limit" if math.isinf(limit) else f"{limit:g}"
        for limit in (lead["interval_low"], lead["interval_high"])
    )
    return (
        f"median {median} ({low} to {high}); first in {lead['n_candidate_first']}, after in "
        f"{lead['n_reference_first']}, {lead['n_ties']} ties, {lead['n_undefined']} without alarm, "
        f"sign test p = {lead['p_value']:.2g}"
    )


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


# The page


def _page(folder, study, question, result, table):
    """The page, of what the other files hold."""
    answer, *lines = map(elements.escaped, result["verdict"].split("\n"))
    parts = [f'<p class="status">{answer}</p><details open><summary>The numbers in words</summary>']
    parts += ["<ul>", *(f"<li>{line}</li>" for line in lines), "</ul></details>"]
    parts += ["<h2>Primary endpoint</h2>", _endpoint(result)]
    for name, caption in study_figures.CAPTIONS.items():
        parts += [f"<h2>{caption.split(':')[0]}</h2>", elements.figure(folder / name, caption)]
        if name == "dose_response.png":
            parts += [_half_dose_table(result), _doses(table)]
        if name == "leads.png":
            parts += _lead_tables(result)
    parts += ["<h2>Effects in control standard deviations</h2>"]
    for arm in result["loops"]:
        parts.append(f"<details><summary>{elements.escaped(arm)}</summary>")
        parts.append(_effects([row for row in table if row["arm"] == arm]) + "</details>")
    parts += ["<h2>Controls</h2>", _controls(result), "<h2>What was run</h2>"]
    shown = {**result["loops"], **study.facts, **question._asdict()}
    parts.append(elements.table(["what", "value"], shown.items(), "record"))
    links = ("PROTOCOL.md", "study.csv", "verdict.json", *study_figures.CAPTIONS)
    home = {"PROTOCOL.md": "../"}
    parts.append(
        "<p>"
        + ", ".join(f'<a href="{home.get(name, "")}{name}">{name}</a>' for name in links)
        + f"; made again by <code>python {SCRIPT} --report</code>.</p>"
    )
    return elements.document(f"Study {study.facts['study']}", parts)


def _endpoint(result):
    head = ["arm", "by generation", "against", "loops", "primary detected", "other detected"]
    head += ["primary only", "other only", "difference", "McNemar p", "before"]
    body = [
        [pair["arm"], pair["by_generation"], pair["against"], pair["n"]]
        + [pair[f"{key}_{kind}"] for kind in ("detected", "only") for key in ("primary", "against")]
        + [_difference(pair), elements.number(pair["p_value"]), "yes" if pair["before"] else "no"]
        for pair in result["comparisons"]
    ]
    return elements.table(head, body)


def _half_dose_table(result):
    found = result["half_doses"]
    body = [
        [name, *(of[name]["text"] for of in found.values())] for name in next(iter(found.values()))
    ]
    return elements.table(["dose at 50 % power", *found], body)


def _doses(table):
    """How many loops of each arm are detected by the first and by the last generation."""
    arms = {row["arm"]: f"{row['arm']} (n = {row['n']})" for row in table}
    found = {(row["stream"], row["arm"], row["generation"]): row["detected"] for row in table}
    last = max(row["generation"] for row in table)
    body = [
        [name, *(f"{found[name, arm, 0]}, {found[name, arm, last]}" for arm in arms)]
        for name in dict.fromkeys(row["stream"] for row in table)
    ]
    head = elements.table(["stream", *arms.values()], body)
    return f"<p>Loops detected by generation 0, and by generation {last}:</p>{head}"


def _lead_tables(result):
    for arm, of in result["leads"].items():
        body = [[name, one["text"], elements.number(one["p_holm"])] for name, one in of.items()]
        table = elements.table([f"lead of {result['primary']} over", "", "Holm p"], body, "record")
        yield f"<details><summary>{elements.escaped(arm)}</summary>{table}</details>"


def _effects(table):
    generations = sorted({row["generation"] for row in table})
    body = {}
    for row in table:
        shown = [elements.number(row[key]) for key in ("effect", "effect_low", "effect_high")]
        body.setdefault(row["stream"], []).append("{} ({} to {})".format(*shown))
    head = ["stream", *(f"generation {g}" for g in generations)]
    return elements.table(head, [[name, *cells] for name, cells in body.items()])


def _controls(result):
    head = ["stream", "direction", "mean", "sd", "threshold", "method", "normality p"]
    head += ["alarms", "of controls", "rate at most"]
    body = []
    for name, of in result["streams"].items():
        alarms = result["false_alarms"][name]
        numbers = [elements.number(of[key]) for key in ("mean", "sd", "threshold")]
        body.append([name, of["direction"], *numbers, of["method"]])
        body[-1] += [elements.number(of["normality"]), alarms["alarms"], alarms["controls"]]
        body[-1].append(f"{alarms['certified_rate']:.0%}")
    return elements.table(head, body)
