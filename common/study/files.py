"""What a loop of a study leaves, one small file, and the loops in a folder that belong together."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.detect import streams
from common.machine import storage
from common.machine.errors import Refusal, UserError
from common.run import comparable, provenance
from common.seeds import INITIAL
from common.settings import ROOT
from common.spectrum import measure
from common.study.arms import ARMS
from common.study.page import SCRIPT
from common.study.power import CONTROL

SCHEMA = 1
PLAN = "plan.json"  # {arm: loops} of a whole test, beside its unit files
PROTOCOL = ROOT / "jacobian" / "study" / "PROTOCOL.md"
# What may differ between arms whose metrics are compared, besides where their spectra are measured.
BETWEEN_ARMS = ("scenario", "control", "seed", "initial_seed", "w", "mixture", "N_train", "N_fixed")


def collected(unit):
    """What a unit leaves: {name: array}, each stream for each generation and anchor.

    streams (S,), directions (S,), generations (G,) with INITIAL first, values (G, S); for w > 0
    guided_streams (M,) and guided_values (G, M), the metrics of N_guided (G,) guided samples;
    anchor_streams (R,) and anchor_values (G, R, A), held_out_streams and held_out_values likewise;
    t (T,) and mean_log_eigenvalues (G, T, D); record: JSON of how and from what it was made.
    """
    found = streams.load(unit.run.folder, unit.run.w, first=INITIAL)
    arrays = measure.load(unit.run.table("spectra", "npz"))
    of_anchors, of_held_out = {}, {}
    for name, values in found.per_anchor.items():
        tangent = name.startswith(streams.TANGENT)
        (of_held_out if tangent else of_anchors)[name] = values.astype(np.float32)
    tiny = np.finfo(np.float64).tiny
    made = {
        "streams": np.array(found.names),
        "directions": np.array([streams.direction(name) for name in found.names]),
        "generations": found.generations,
        "values": found.values,
        "anchor_streams": np.array(list(of_anchors)),
        "anchor_values": np.stack(list(of_anchors.values()), 1),
        "held_out_streams": np.array(list(of_held_out)),
        "held_out_values": np.stack(list(of_held_out.values()), 1),
        "t": arrays["t"],
        "mean_log_eigenvalues": np.log(np.maximum(arrays["eigenvalues"], tiny))
        .mean(axis=2)
        .astype(np.float32),
        "record": np.array(json.dumps(_record(unit, found.provenance), sort_keys=True)),
    }
    rows = {row["generation"]: row for row in unit.run.metrics()}
    if guided := streams.of_metrics(unit.run, rows, "_guided"):
        made["guided_streams"] = np.array(list(guided))
        made["guided_values"] = np.stack(list(guided.values()), 1)
        made["N_guided"] = np.array([row["N_guided"] for row in rows.values()])
    return made


def _record(unit, made):
    record = provenance.recorded(unit.run)
    samples = {
        str(g): storage.sha256(unit.run.evaluation(g)[0])
        for g in range(INITIAL, unit.generation_number)
    }
    return {
        "schema": SCHEMA,
        "study": unit.name,
        "role": unit.role,
        "arm": unit.arm,
        "dose": ARMS[unit.arm].dose,
        "control": unit.arm == CONTROL,
        "seed": unit.seed,
        "protocol_sha256": storage.sha256(PROTOCOL) if PROTOCOL.exists() else None,
        "commit": record["commit"],
        "versions": record["versions"],
        "samples_sha256": samples,
        "provenance": provenance.as_json(made),
    }


class Kept(NamedTuple):
    """A unit's file: what `collected` put there, and its record."""

    path: Path
    arrays: dict
    record: dict

    @property
    def judged(self):
        """Whether the controls are its null: it trains on new images only, at w = 0."""
        made = self.record["provenance"]
        return made["N_fixed"] == 0 and not made.get("w")

    def values(self, horizon, kind=""):
        """Values (G, S), float64, in generations 0 to horizon - 1, after that of the initial model;
        kind "guided_": of the guided samples."""
        generations = self.arrays["generations"].tolist()
        if generations[: horizon + 1] != list(range(INITIAL, horizon)):
            raise Refusal(
                f"{self.path.name} lacks generations: it has {generations}, the horizon is "
                f"generations 0 to {horizon - 1}; --generation_number sets it"
            )
        return self.arrays[kind + "values"][: horizon + 1].astype(np.float64)


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


def load(folder, role):
    """The Loops of a role in a folder of unit files, by dose, arm and seed, and how many others
    there are. UserError where there are none, Refusal where they are not of one study."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        arrays = storage.load_arrays(path, SCRIPT)
        found.append(Kept(path, arrays, json.loads(str(arrays["record"]))))
    loops = [loop for loop in found if loop.record["role"] == role]
    loops.sort(key=lambda loop: [loop.record[key] for key in ("dose", "arm", "seed")])
    if not loops:
        raise UserError(f"no unit of role {role} in {folder}: run {SCRIPT} first")
    first = next((loop for loop in loops if loop.judged), loops[0])
    for loop in loops:
        _check(loop, first)
    return loops, len(found) - len(loops)


def _check(loop, first):
    """Raises a Refusal unless a unit is what its name says and belongs to the first one, in whose
    streams it is measured unless it serves claims alone, which need the metrics only."""
    name, record, other = loop.path.name, loop.record, first.record
    if loop.path.stem != f"{record['arm']}_seed{record['seed']}":
        raise Refusal(f"{name} holds {record['arm']}, seed {record['seed']}: name it back")
    if record["schema"] != SCHEMA:
        raise Refusal(f"{name} has schema {record['schema']}, not {SCHEMA}: make it anew")
    key = "protocol_sha256"
    if record[key] != other[key] and record["role"] != "pilot":  # which has none, or a draft
        raise Refusal(f"{name} has another {key} than {first.path.name}: they do not mix")
    for key in ("streams", "directions"):
        if loop.judged and loop.arrays[key].tolist() != first.arrays[key].tolist():
            raise Refusal(f"{name} has other {key} than {first.path.name}: they do not mix")
    text = comparable.difference(_made(first), _made(loop), BETWEEN_ARMS)
    if text and not loop.judged:
        raise Refusal(f"{text}: claims compare loops of one recipe and measurement")


def _made(loop):
    """The Provenance of what does not concern spectra."""
    made = provenance.from_json(loop.path, loop.record["provenance"])
    return dataclasses.replace(made, anchors=None, sample_anchors=None)


def study(loops, question, n_others=0):
    """The Study of Loops in generations 0 to horizon - 1 of a question, those that controls judge.

    A stream that is not finite everywhere is left out and named in facts, unless the question is
    about it. Raises UserError where something is missing, Refusal where loops do not belong
    together, naming the first file that does not.
    """
    loops = [loop for loop in loops if loop.judged]
    _check_controls(loops)
    names, record = loops[0].arrays["streams"].tolist(), loops[0].record
    values = [loop.values(question.horizon)[1:] for loop in loops]
    left_out = _not_finite(names, loops, values, question)
    kept = [s for s, name in enumerate(names) if name not in left_out]
    arms, doses, seeds = {}, {}, {}
    for loop, of in zip(loops, values, strict=True):
        arm, dose = CONTROL if loop.record["control"] else loop.record["arm"], loop.record["dose"]
        arms.setdefault(arm, []).append(of[:, kept])
        seeds.setdefault(arm, []).append(loop.record["seed"])
        if doses.setdefault(arm, dose) != dose:
            raise Refusal(f"loops of arm {arm} have doses {doses[arm]} and {dose}")
    controls = np.stack(arms.pop(CONTROL))
    arms = {arm: np.stack(of) for arm, of in arms.items()}
    doses = {arm: doses[arm] for arm in arms}
    if len(set(doses.values())) < len(doses) or min(doses.values()) <= 0:
        raise Refusal(f"arms need doses above 0, each its own, but they are {doses}")
    facts = {key: record[key] for key in ("study", "role", "protocol_sha256")}
    facts["commits"] = sorted({str(loop.record["commit"]) for loop in loops})
    facts |= {"n_of_other_roles": n_others, "left_out": left_out}
    direction = loops[0].arrays["directions"][kept]
    return Study([names[s] for s in kept], direction, controls, arms, doses, seeds, facts)


def _check_controls(loops):
    """Raises unless there are controls and other Loops, of which the controls are controls."""
    made = {}
    for path, _, record in loops:
        of = provenance.from_json(path, record["provenance"])
        made.setdefault(CONTROL if record["control"] else record["arm"], []).append(of)
    controls = made.pop(CONTROL, [])
    if len(controls) < 2 or not made:
        raise UserError(
            f"there are {len(controls)} controls and {len(loops) - len(controls)} other loops: "
            f"2 controls and 1 loop are needed, run {SCRIPT}"
        )
    for of_arm in made.values():
        comparable.check_loops(of_arm)
        comparable.check_controls(of_arm, controls)


def _not_finite(names, loops, values, question):
    """{stream: the first unit in which it is not finite}; raises if the question is about it."""
    left_out = {}
    for loop, of in zip(loops, values, strict=True):
        for s in np.flatnonzero(~np.isfinite(of).all(0)):
            left_out.setdefault(names[s], loop.path.name)
    for name in question.streams:
        if name not in names:
            raise UserError(f"there is no stream {name!r}; there are: {', '.join(names)}")
        if name in left_out:
            raise UserError(f"{name} is not finite in {left_out[name]}: make that unit anew")
    return left_out
