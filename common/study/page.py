"""A study's results in words, and its page."""

from common.page import render
from common.page.words import number
from common.study import figures, power
from common.study.power import CONTROL

SCRIPT = "jacobian/study.py"  # what makes unit files and the report


# Sentences


def verdict(study, question, result):
    """The numbers in words: the answer first, then what it rests on."""
    lines = [_answer(question, result), _before_and_after(question, result)]
    lines.append(
        f"Judged were generations 0 to {question.horizon - 1} of {len(study.controls)} controls, "
        + ", ".join(f"{len(loops)} of {arm}" for arm, loops in study.arms.items())
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
    """Where the primary was first, as the protocol defines it, or where loops are too few."""
    claims, loops = result["first"], {arm: of["n"] for arm, of in result["loops"].items()}
    n_claims = question.n_claims(loops)
    there = {arm: (loops.get(arm, 0), n) for arm, n in question.planned.items()}
    short = [f"{n} of {of} {arm}" for arm, (n, of) in there.items() if n < of]
    interim = f"Interim, with {', '.join(short)} loops. " if short else ""
    both = f"before {question.reference} and before {question.rival}"
    spectrum = f"spectrum ({question.primary})"
    uncorrected, first = (
        _where(claim for claim in claims if claim[kind]) for kind in ("first", "first_holm")
    )
    if any(claim["first_holm"] for claim in claims):
        return f"{interim}The {spectrum} was first, {both}, in {first}."
    enough = next(n for n in range(1, 99) if n_claims * power.least_p(n) < power.SIGNIFICANT)
    small = [f"{n} of {arm}" for arm, n in loops.items() if n < enough and arm != CONTROL]
    text = f"The {spectrum} was not first: nowhere was it detected significantly {both}."
    if small:
        text = (
            f"Undecided: too few loops ({', '.join(small)}) to show that the {spectrum} is "
            f"detected {both}; with {n_claims} claims that takes {enough} of an arm."
        )
    if any(claim["first"] for claim in claims):
        text += f" Without correction for the number of claims it was, in {uncorrected}."
    return interim + text


def _before_and_after(question, result):
    """Where the primary was before or after each of the others."""
    texts = []
    for name in (question.reference, question.rival):
        of = [pair for pair in result["comparisons"] if pair["against"] == name]
        before, after = (_where(pair for pair in of if pair[kind]) for kind in ("before", "after"))
        texts.append(f"before {name}: {before}; after it: {after}.")
    return f"Each comparison for itself, at 5 %: {' '.join(texts)}"


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
    kind = "not first"
    if claim["first"]:
        kind = "first" if claim["first_holm"] else "first, but not with Holm's correction"
    return (
        f"{claim['arm']} ({study.doses[claim['arm']]:.0%} synthetic), by generation "
        f"{claim['by_generation']}: {question.primary} detected in {pairs[0]['primary_detected']} "
        f"of {pairs[0]['n']}; {against}: {kind}."
    )


def _difference(pair):
    low, high = pair["difference_low"], pair["difference_high"]
    return f"{pair['difference']:+.0%}, {low:+.0%} to {high:+.0%}"


# The page


def page(folder, study, question, result, table, claimed):
    """The page, of what the other files hold."""
    pictures = {name: render.picture(folder / name) for name in figures.CAPTIONS}
    return render.text(
        "study.html.j2",
        title=f"Study {study.facts['study']}",
        result=result,
        difference=_difference,
        figures=[(name, pictures[name], text) for name, text in figures.CAPTIONS.items()],
        detected=_detected(table),
        effects=_effects(table),
        claimed=_claimed(claimed),
        costs=[list(row.values()) for row in result["costs"]],
        made={**result["loops"], **study.facts, **question._asdict()},
        script=SCRIPT,
    )


def _detected(table):
    """How many loops of each arm are detected by the first and by the last generation."""
    arms = {row["arm"]: f"{row['arm']} (n = {row['n']})" for row in table}
    found = {(row["stream"], row["arm"], row["generation"]): row["detected"] for row in table}
    last = max(row["generation"] for row in table)
    return [f"by generation 0, by {last}", *arms.values()], [
        [name, *(f"{found[name, arm, 0]}, {found[name, arm, last]}" for arm in arms)]
        for name in dict.fromkeys(row["stream"] for row in table)
    ]


def _effects(table):
    """A table (head, rows) for each arm, a row per stream, a column per generation."""
    generations = sorted({row["generation"] for row in table})
    arms = {}
    for row in table:
        shown = [number(row[key]) for key in ("effect", "effect_low", "effect_high")]
        streams = arms.setdefault(row["arm"], {})
        streams.setdefault(row["stream"], []).append("{} ({} to {})".format(*shown))
    head = ["stream", *(f"generation {g}" for g in generations)]
    return {
        arm: (head, [[name, *cells] for name, cells in streams.items()])
        for arm, streams in arms.items()
    }


def _claimed(rows):
    """The claims of the MAD paper, a row each: its loops, the change with its interval, whether it
    holds."""
    head = ["claim", "metric", "loops", "change (95 % interval)", "verdict"]
    found = []
    for row in rows:
        loops = f"{row['loops']} of {row['arm']}"
        if row["against"]:
            loops += f", {row['loops_against']} of {row['against']}"
        change = "{} ({} to {})".format(*(number(row[key]) for key in ("change", "low", "high")))
        found.append([row["claim"], row["metric"], loops, change, row["verdict"]])
    return head, found
