"""What a page says about a run, computed from its record and its numbers."""

import math
import time
from pathlib import Path

from common import recipes
from common.machine.progress import duration
from common.metrics import NAMES
from common.page.commands import constants_of
from common.run.folder import generation_name, model_name
from common.seeds import INITIAL

METRICS = {**NAMES, "accuracy": "class accuracy"}
LITTLE = 0.1  # a relative change below this is not said to be a rise or a fall
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def number(value):
    """Four digits, or a dash for None."""
    return "–" if value is None else f"{value:.4g}"


def numbers(row, kind=""):
    """The metrics of a row, with kind = "_guided" of its guided samples."""
    return [number(row.get(f"{metric}{kind}")) for metric in METRICS]


# What happened


def happened(rows, controls):
    """FID and recall of a loop from its first to its last generation, and what they are in control
    loops, in a sentence: rows as `Run.metrics`, controls a list of such rows."""
    if not rows:
        return "No generation has been measured yet."
    first, last = rows[0], rows[-1]
    if len(rows) == 1:
        fid, recall = _fid(first), _recall(first)
        return f"So far {_the(first['generation'])} alone: FID {fid}, recall {recall}."
    n = sum(row["generation"] != INITIAL for row in rows)
    span = f"Over {_count(n, 'generation')}"
    if first["generation"] != INITIAL:
        span = f"From generation {first['generation']} to {last['generation']}"
    fid, recall = _change("FID", _fid, first, last), _change("recall", _recall, first, last)
    return f"{span} {fid} and {recall}{_of_controls(controls)}.{_unmeasurable(rows)}"


def _change(name, text, first, last):
    before, after = text(first), text(last)
    if before == after:
        return f"{name} stayed at {after}"
    metric = name.lower()
    if not all(math.isfinite(row[metric]) for row in (first, last)):
        return f"{name} went from {before} to {after}"
    if abs(last[metric] - first[metric]) < LITTLE * abs(first[metric]):
        return f"{name} went from {before} to {after}"
    verb = "rose" if last[metric] > first[metric] else "fell"
    return f"{name} {verb} from {before} to {after}"


def _unmeasurable(rows):
    """Where FID or recall is no finite number."""
    finite = math.isfinite
    bad = [row for row in rows if not (finite(row["fid"]) and finite(row["recall"]))]
    names = ", ".join(generation_name(row["generation"]) for row in bad)
    return f" Not a finite number: FID or recall of generation {names}." if bad else ""


def _the(generation):
    return "the " * (generation == INITIAL) + model_name(generation)


def _of_controls(controls):
    """The range of FID and recall in the generations of control loops."""
    finite = math.isfinite
    of_loops = [
        [r for r in of if r["generation"] != INITIAL and finite(r["fid"]) and finite(r["recall"])]
        for of in controls
    ]
    rows = [row for of in of_loops for row in of]
    if not rows:
        return ""
    ranges = []
    for name, text in (("fid", _fid), ("recall", _recall)):
        ends = (min(rows, key=lambda row: row[name]), max(rows, key=lambda row: row[name]))
        ranges.append(" to ".join(dict.fromkeys(map(text, ends))))
    loops = _count(sum(len(of) > 0 for of in of_loops), "control loop")
    return f"; {loops}, on real images only, are at FID {ranges[0]} and recall {ranges[1]}"


def _fid(row):
    return _short(row["fid"], ",.0f" if 10 <= row["fid"] < 1e6 else ".2g")


def _recall(row):
    return _short(row["recall"], ".2f")


def _short(value, digits):
    return "not a number" if math.isnan(value) else f"{value:{digits}}".replace("inf", "infinity")


def _count(n, noun):
    return f"{COUNTS[n] if n < len(COUNTS) else n} {noun}{'' if n == 1 else 's'}"


def alarms(found):
    """When the primary stream, FID and the denoising loss alarmed, and how sure that is, from
    onset_w{w}.json of calibrated loops, the first of which is the page's."""
    at, primary = found["runs"][0]["onsets"], found["primary"]
    loss = f"log denoising loss t={primary.rpartition('t=')[2]}"
    names = {primary: f"the spectrum ({primary})", found["reference"]: found["reference"]}
    names |= {loss: "log denoising loss"} if loss in at else {}
    when = {name: f"at generation {at[name]['generation']}" if at[name] else "never" for name in at}
    first = ", ".join(f"{text} {when[name]}" for name, text in names.items())
    loops, last = _count(len(found["controls"]), "control loop"), found["horizon"] - 1
    rate = max(found["streams"][name]["certified_rate"] for name in names)
    return (
        f"First alarm in generations 0 to {last}: {first}; {loops} certify no rate of false alarms "
        f"below {rate:.0%} for each."
    )


def compared(loops, generation):
    """Where FID is lowest and highest among Loops at a generation that all have."""
    found = [(loop.name.text, loop.at(generation)) for loop in loops]
    found = [(name, row) for name, row in found if math.isfinite(row.get("fid", math.nan))]
    if not found:
        return "No generation that all loops have has been measured yet."
    found.sort(key=lambda each: each[1]["fid"])
    texts = [f"{name} (FID {_fid(row)}, recall {_recall(row)})" for name, row in found]
    at = _the(generation)
    if len({_fid(row) for _, row in found}) == 1:
        return f"At {at}: {' and '.join(texts)}."
    return f"At {at}, FID is lowest in {texts[0]} and highest in {texts[-1]}."


def trend(rows, metric):
    """The values of a metric over the generations, for those who cannot see the chart."""
    values = (f"{generation_name(row['generation'])} {number(row.get(metric))}" for row in rows)
    return f"{METRICS[metric]} over the generations: {', '.join(values)}"


# How it was made, and how far it is


def status(record, rows, timings, ended):
    """How far a loop is, {"kind": "finished", "running" or "stopped", ...}: from the record of its
    run, its metrics, rows of timings_w{w}.csv, and time.time() at the end of its last stage."""
    done = sum(row["generation"] != INITIAL for row in rows)
    total = max(done, record["generation_number"])
    seconds = [(row["generation"], float(row["seconds"])) for row in timings]
    of_generations = sum(value for generation, value in seconds if generation != "initial")
    stopped = record.get("stopped")
    return {
        "kind": "stopped" if stopped else "finished" if done >= total else "running",
        "done": done,
        "total": total,
        "stopped": stopped,
        "spent": duration(sum(value for _, value in seconds)),
        "left": duration(of_generations / done * (total - done)) if 0 < done < total else None,
        "ended": ended and time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)),
    }


def recipe(record):
    """The recipe that was named and where the run differs from it."""
    name = record.get("recipe")
    if name is None:
        return "No recipe was named: each constant is in the list below."
    constants = constants_of(record)
    script = Path(record["folder"]) / "main.py"
    meant = recipes.overrides(name, script, constants)
    others = [
        f"{key} = {constants[key]} (recipe: {value})"
        for key, value in meant.items()
        if constants[key] != value
    ]
    return f"Recipe {name}, " + (f"but {', '.join(others)}." if others else "without changes.")
