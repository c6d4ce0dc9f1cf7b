"""A study's results in words, and its page."""

from common.page import elements
from common.study import figures

SCRIPT = "jacobian/study.py"  # what makes unit files and the report


# Sentences


def verdict(study, question, result):
    """The numbers in words: the answer first, then what it rests on."""
    lines = [_answer(question, result)]
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


def _answer(question, result):
    """Where the primary was first, as the protocol defines it, and where before or after each."""
    claims, pairs = result["first"], result["comparisons"]
    both = f"before {question.reference} and before {question.rival}"
    first, holm = (
        _where(claim for claim in claims if claim[kind]) for kind in ("first", "first_holm")
    )
    text = f"{question.primary} was not first: nowhere was it detected {both}. "
    if any(claim["first"] for claim in claims):
        text = (
            f"{question.primary} was first, {both}, each at {question.alpha:.0%}, in {first}; with "
            f"Holm's correction over {len(claims)} claims: {holm}. "
        )
    for name in (question.reference, question.rival):
        of = [pair for pair in pairs if pair["against"] == name]
        before, after = (_where(pair for pair in of if pair[kind]) for kind in ("before", "after"))
        text += f"Detected before {name}: {before}; after it: {after}. "
    return text.rstrip()


def _where(claims):
    """Arms and ends of the horizon in words."""
    found = [f"{claim['arm']} by generation {claim['by_generation']}" for claim in claims]
    return ", ".join(found) or "nowhere"


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


# The page


def page(folder, study, question, result, table):
    """The page, of what the other files hold."""
    answer, *lines = map(elements.escaped, result["verdict"].split("\n"))
    parts = [f'<p class="status">{answer}</p><details open><summary>The numbers in words</summary>']
    parts += ["<ul>", *(f"<li>{line}</li>" for line in lines), "</ul></details>"]
    parts += ["<h2>Primary endpoint</h2>", _endpoint(result)]
    for name, caption in figures.CAPTIONS.items():
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
    links = ("PROTOCOL.md", "study.csv", "verdict.json", *figures.CAPTIONS)
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
