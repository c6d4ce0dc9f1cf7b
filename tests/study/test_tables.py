"""The numbers of the study in the READMEs' tables are those of the committed files."""

import csv
import json

import pytest
from tiny import ROOT

STUDY = ROOT / "jacobian" / "study"
PRIMARY, LOSS = "log posterior variance, 20 largest t=50", "log denoising loss t=50"
SHOWN = [
    *(PRIMARY, "log FID", LOSS, "recall", "coverage", "entropy of samples"),
    *("distance to training set", "over-confidence, 20 directions t=50"),
    *(f"{PRIMARY} at samples", f"{LOSS} at samples"),
]


def answer(study):
    """verdict.json, and study.csv as {(arm, stream): rows of the generations}."""
    verdict = json.loads((STUDY / study / "verdict.json").read_text(encoding="utf-8"))
    rows = {}
    with open(STUDY / study / "study.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["arm"], row["stream"]), []).append(row)
    return verdict, rows


def line(cells):
    return f"| {' | '.join(map(str, cells))} |"


def label(stream):
    return f"**{stream}**" if stream in (PRIMARY, LOSS) else stream


def effects(rows):
    """Two digits of each generation's."""
    values = [float(row["effect"]) for row in rows]
    texts = [f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}" for value in values]
    return ", ".join(texts).replace("-0.0", "0.0")


def of_an_arm(arm, study="digits2"):
    verdict, rows = answer(study)
    n, controls = verdict["loops"][arm]["n"], verdict["loops"]["control"]["n"]
    numbers = [*map(str, range(verdict["horizon"]))]
    yield line(
        [
            arm if study == "digits2" else study,
            f"effect, generations 0 to {numbers[-1]}",
            f"detected by {', '.join(numbers)}, of {n}",
            f"controls that alarmed, of {controls}",
        ]
    )
    yield line(["---"] * 4)
    for stream in SHOWN:
        detected = ", ".join(row["detected"] for row in rows[arm, stream])
        alarms = verdict["false_alarms"][stream]["alarms"]
        yield line([label(stream), effects(rows[arm, stream]), detected, alarms])


def of_the_primary_endpoint(study="digits2"):
    verdict, _ = answer(study)
    yield line(
        [
            *("arm", "by generation", "against", "detected, primary : other"),
            *("difference (95 % interval)", "McNemar p", "lead: median (95 % interval)"),
            "sign test p",
        ]
    )
    yield line(["---"] * 8)
    for pair in verdict["comparisons"]:
        lead = verdict["leads"][pair["arm"]][pair["against"]]
        median = lead["text"].split("; ")[0].removeprefix("median ").replace("95 % interval ", "")
        percent = [f"{100 * pair[key]:+.0f}" for key in DIFFERENCE]
        difference = "{} % ({} to {})".format(*percent).replace("+0 ", "0 ").replace("-0 ", "0 ")
        detected = f"{pair['primary_detected']} : {pair['against_detected']} of {pair['n']}"
        of_the_end = pair["by_generation"] == verdict["horizon"] - 1
        yield line(
            [
                *(pair["arm"], pair["by_generation"], pair["against"], detected, difference),
                f"{pair['p_value']:.2g}",
                *((median, f"{lead['p_value']:.2g}") if of_the_end else ("", "")),
            ]
        )


def of_half_doses():
    verdict, _ = answer("digits2")
    yield line(["by generation", *(verdict[key] for key in ("primary", "reference", "rival"))])
    yield line(["---"] * 4)
    for end, of in verdict["half_doses"].items():
        texts = [of[verdict[key]]["text"] for key in ("primary", "reference", "rival")]
        yield line([end[-1], *(text.replace("95 % interval ", "") for text in texts)])


def of_claims():
    """Metrics of the last generation against the initial one's, or that of generation 0."""
    yield line(["claim", "loops", "change (95 % interval)", "verdict"])
    yield line(["---"] * 4)
    with open(STUDY / "digits2" / "claims.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            loops = row["loops"] + (f" : {row['loops_against']}" if row["against"] else "")
            values = [float(row[key]) for key in ("change", "low", "high") if row[key]]
            unit = "" if row["metric"] == "log FID" else " %"
            texts = [f"{100 * v:+.0f}" if unit else f"{v:+.2f}" for v in values]
            interval = f" ({texts[1]} to {texts[2]})" if texts[1:] else ""
            change = f"{texts[0]}{unit}{interval}" if texts else ""
            yield line([row["claim"], loops, change, row["verdict"]])


def of_the_front_page():
    """Loops that are detected where all is synthetic, half or a quarter; costs."""
    verdict, rows = answer("digits2")
    costs = {row["stream"]: row for row in verdict["costs"]}
    for name, stream, cost in FRONT:
        full, half, quarter = (rows[arm, stream] for arm in ("full", "dose50", "dose25"))
        by = ", ".join(row["detected"] for row in half)
        yield line(
            [
                *(name, f"{full[0]['detected']} of {full[0]['n']}", f"{by} of {half[0]['n']}"),
                f"{quarter[-1]['detected']} of {quarter[-1]['n']}",
                *(f"{float(costs[cost][key]):.2g}" for key in ("seconds", "with samples at hand")),
            ]
        )


FRONT = [
    ("spectrum, 20 test images", PRIMARY, "spectrum of J and of C, one t"),
    ("FID, 1,000 samples", "log FID", "FID"),
    ("recall, the same samples", "recall", "precision, recall, density, coverage"),
    ("denoising loss, 200 test images", LOSS, "denoising loss, one t"),
]
DIFFERENCE = ("difference", "difference_low", "difference_high")
TABLES = {
    "dose25": (STUDY, lambda: of_an_arm("dose25")),
    "dose50": (STUDY, lambda: of_an_arm("dose50")),
    "dose10": (STUDY, lambda: of_an_arm("dose10")),
    "full": (STUDY, lambda: of_an_arm("full")),
    "mnist": (STUDY, lambda: of_an_arm("full", "mnist")),
    "mnist's primary endpoint": (STUDY, lambda: of_the_primary_endpoint("mnist")),
    "plain loss": (STUDY, lambda: of_an_arm("full", "plain")),
    "primary endpoint": (STUDY, of_the_primary_endpoint),
    "half doses": (STUDY, of_half_doses),
    "claims": (STUDY, of_claims),
    "front page": (ROOT, of_the_front_page),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_readmes_is_that_of_the_files(name):
    folder, of_files = TABLES[name]
    expected = "\n".join(of_files())
    assert expected in (folder / "README.md").read_text(encoding="utf-8"), f"\n{expected}"
