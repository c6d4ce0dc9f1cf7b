"""Whether runs can be compared: what differs between them, and what of that may.

A control generation trains on real images, new ones in place of every synthetic one. It is a draw
from the null of a loop if all else is the same: the recipe, the training set's size, the data, and
what measures the models. Where all images are new (FullSynthetic and Fresh), controls of one
scenario serve the other; those of AugmentedSynthetic share the loop's fixed real images. Fresh
with resample_real = False has fixed real images too, drawn once for the loop: over such draws each
generation has the controls' distribution, and generations that are alike alarm no more often.
A control draws under the name of its own scenario ("Fresh control"), so it shares no random
number with a loop of the same seed, but all of them with a control of the same seed.
"""

import json

from common.machine.errors import Refusal, UserError
from common.run import provenance
from common.run.folder import Run
from common.seeds import INITIAL

# What may differ between the loops that are judged together, and between a loop and its control.
BETWEEN_LOOPS = ("seed", "initial_seed")
LOOP_AND_CONTROL = ("seed", "w", "control", "mixture")
BETWEEN_CONTROLS = ("seed", "mixture")


def difference(one, other, may_differ=()):
    """The first field in which two Provenances differ, with both values, in a sentence; or None.

    Fields named in may_differ may differ: "mixture" and "recipe" stand for all their constants.
    What is unknown of either is not compared.
    """
    for name, (ours, theirs) in differences(one, other, may_differ).items():
        return f"{name} is {_shown(ours)} in {one.folder}, but {_shown(theirs)} in {other.folder}"
    return None


def differences(one, other, may_differ=()):
    """{field: (value, other value)} of all fields in which two Provenances differ."""
    excused = set(may_differ)
    for group in ("recipe", "mixture"):
        if group in excused:
            excused |= {*(getattr(one, group) or {}), *(getattr(other, group) or {})}
    ours, theirs = one.flat(), other.flat()
    return {
        name: (ours[name], theirs[name])
        for name in ours
        if name not in excused
        and ours[name] is not None
        and theirs.get(name) is not None
        and ours[name] != theirs[name]
    }


def _shown(value):
    """A value in a message: hashes and long lists by their beginning."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    if isinstance(value, list) and len(value) > 10:
        return f"{str(value[:10])[:-1]}, ...]"
    return json.dumps(value) if isinstance(value, str) else str(value)


def check_loops(loops):
    """Refusal when Provenances of loops that are judged together are not of one kind, or when two
    of them are the same or draw the same random numbers."""
    for i, loop in enumerate(loops):
        if text := difference(loops[0], loop, BETWEEN_LOOPS):
            raise Refusal(f"loops that are judged together must be of one kind: {text}")
        for other in loops[:i]:
            if loop.models & other.models or loop.seed == other.seed is not None:
                raise Refusal(
                    f"{other.folder} and {loop.folder} hold the same models or have the same seed: "
                    "they count as one loop"
                )


def check_controls(loops, controls):
    """Refusal when a Provenance in `controls` is not that of a control, or not one of these loops,
    or when two of them are not of one kind, are the same or draw the same random numbers."""
    for control in controls:
        if control.recipe is None:
            raise Refusal(
                f"{control.folder} has no run_w0.json: without its record nobody knows what it "
                "is a control of"
            )
        if not control.control:
            raise Refusal(
                f"control is False in {control.folder}, but True in a control loop: make one "
                "with main.py --control True"
            )
        if control.init_from != "scratch":
            raise Refusal(
                f'init_from is {_shown(control.init_from)} in {control.folder}, but "scratch" in '
                "a control loop: fine-tuned generations are a chain, not independent draws"
            )
    for i, control in enumerate(controls):
        for other in [*loops, *controls[:i]]:
            if control.models & other.models:
                raise Refusal(
                    f"{other.folder} and {control.folder} hold the same models: a loop is not "
                    "its own control"
                )
        for other in controls[:i]:
            if control.seed == other.seed:
                raise Refusal(
                    f"seed is {control.seed} in {other.folder} and also {control.seed} in "
                    f"{control.folder}: two control loops must have different seeds"
                )
            if text := difference(other, control, _may_differ(other, control, BETWEEN_CONTROLS)):
                raise Refusal(f"{text}: controls differ in nothing but their seed")
    for loop in loops:
        for control in controls:
            if text := difference(loop, control, _may_differ(loop, control, LOOP_AND_CONTROL)):
                raise Refusal(
                    f"{text}: a control differs from the loop in nothing but its seed and its "
                    "real images"
                )


def controls_beside(run):
    """The control loops in folders control_seed* beside a Run, as far as they have begun: Runs, and
    a sentence for each that is left out, because its record differs from the run's in what a
    control may not, it repeats a seed, or its files are damaged. A loop that other code made has no
    record, and its controls need none."""
    loop, found, left_out = _of_record(run), {}, []
    for path in sorted(run.folder.glob("control_seed*")):
        control = Run(path, 0)
        made = None
        try:
            rows = control.metrics()
            made = _of_record(control)
            if not (made or rows):
                continue  # it has not begun
            text = _no_control(loop, made)
        except UserError as error:
            text = str(error)
        seed = made.seed if made else path.name
        if seed in found:
            text = f"seed is {seed} in {found[seed].folder}, too"
        if text:
            left_out.append(f"{path.name} is left out: {text}")
        else:
            found[seed] = control
    return list(found.values()), left_out


def controls_of_all(runs):
    """The control loops beside any of the Runs that are controls of each: Runs, the same ones
    whatever the order; and a sentence for each that is left out."""
    loops, found, left_out = [_of_record(run) for run in runs], {}, []
    for control in (control for run in runs for control in controls_beside(run)[0]):
        made = _of_record(control)
        texts = filter(None, (_no_control(loop, made) for loop in loops))
        if text := next(texts, None):
            left_out.append(f"{control.folder.name} is not a control of all: {text}")
        else:
            key = (made.scenario, made.seed) if made else control.folder.resolve().parts
            found.setdefault(key, control)
    return [found[key] for key in sorted(found, key=str)], left_out


def _of_record(run):
    return provenance.of_record(run) if provenance.recorded(run) else None


def _no_control(loop, made):
    """Why what was made so is no control of a loop, or None; both are Provenances, or None where
    there is no record."""
    if loop and not made:
        return "without run_w0.json nobody knows how it was made"
    return loop and difference(loop, made, _may_differ(loop, made, LOOP_AND_CONTROL))


def control_rows(*runs):
    """The metrics of all generations of the control loops that belong to these Runs, without their
    initial model, which is that of the run beside them."""
    rows = (row for of in controls_of_all(runs)[0] for row in of.metrics())
    return [row for row in rows if row["generation"] != INITIAL]


def _may_differ(one, other, names):
    """Where all images of a training set are new, scenarios may differ, too."""
    return (*names, "scenario") if one.N_fixed == other.N_fixed == 0 else names
