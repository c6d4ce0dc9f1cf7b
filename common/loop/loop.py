"""The self-consuming loop: what main.py and mainall.py of every scenario run.

Stages are files: a stage whose file is there is skipped, so a stopped run continues where it
stopped. What differs between scenarios is the function `training_set` in their scenario.py.
"""

import contextlib
import functools

from tqdm import tqdm

from common.data import fingerprint, load_real
from common.loop import checks, figures, rows, scenarios, sources, stages
from common.loop.forecast import announce_work
from common.loop.state import Loop
from common.machine import device, processes, records, storage
from common.machine.errors import UserError, one_line
from common.metrics import evaluation
from common.page import report
from common.run import comparable, plots
from common.run.folder import Run, guidance_weights, load_lenet
from common.run.record import save_record
from common.seeds import INITIAL
from common.settings import number_text


@processes.led
def main(constants):
    """The loop over generations for one guidance weight w."""
    with one_line():
        _loops(constants, [constants.w])


@processes.led
def mainall(constants):
    """The loop over generations for every guidance weight in Wall, one after the other."""
    with one_line():
        folder = _loops(constants, constants.Wall)
        runs = {w: Run(folder, w) for w in guidance_weights(folder)}  # of other calls too
        found = {f"w = {number_text(w)}": run.metrics() for w, run in runs.items() if run.metrics()}
        path, first = folder / "weights.png", next(iter(runs.values()))
        with storage.lock(path.with_suffix(".lock"), wait=True):  # other weights' loops too
            name, controls = scenarios.name_of(constants), comparable.control_rows(first)
            floors = (storage.load_rows(run.table("floor")) for run in runs.values())
            (floor,) = next(filter(None, floors))  # a loop that was stopped early has none
            storage.save_figure(plots.together(found, name, controls, floor), path)
        print(f"all weights together: {storage.shown(path)}")
        report.announce(report.index(folder))


def _loops(constants, weights):
    """Runs a loop for each weight; returns the folder that they are in.

    A control trains on no sample, so it does not depend on the weight: it is run once, as w = 0.
    """
    device.use(constants.deterministic)
    name, folder = scenarios.name_of(constants), constants.save_dir
    if constants.control:
        weights, name, folder = [0], f"{name} control", folder / f"control_seed{constants.seed}"
    checks.check_inputs(weights, constants)
    constants.initial_seed = checks.check_initial(constants)
    real = load_real(constants.dataset)
    training_set = scenarios.training_set_of(constants.script.parent)
    checks.check_real_data(real, name, training_set, constants)
    for w in weights:
        run, constants.w = Run(folder, w), w
        with storage.lock(run.table("run", "lock")):
            if constants.control:
                _share_initial(run, constants)
            _run(_prepared(run, name, constants, training_set, real))
    return folder


def _share_initial(run, constants):
    """Copies what a control needs, and the record of its initial model, to its folder."""
    names = [path.name for path in checks.inputs(run, constants)]
    scenarios.share(names, constants.save_dir, run.folder)
    record = constants.save_dir / "run_initial.json"
    if record.exists():  # not there when other code made the data
        storage.save_bytes(storage.load_bytes(record), run.folder / record.name)


def _prepared(run, name, constants, training_set, real):
    """The Loop in a folder, with its record, and what its metrics compare with."""
    lenet = load_lenet(run.prmodel)
    inputs = {path.name: storage.sha256(path) for path in checks.inputs(run, constants)}
    inputs["dataset"] = fingerprint(real)
    save_record(run.table("run", "json"), constants, name, inputs, run.has_begun(), stopped=None)
    for text in comparable.controls_beside(run)[1]:
        print(f"note: {text}")
    key = {name: inputs[name] for name in ("dataset", "prmodel.pth")}
    path = run.folder / "real_features.pth"
    reference = evaluation.reference(real, lenet, constants.N_ref, path, key)
    rows.measure_floor(run, constants, real, lenet, reference)
    for kind in ("metrics", "timings"):  # a damaged table is made anew
        storage.verify(run.table(kind))
        records.sweep(run.table(kind))
    return Loop(run, name, constants, training_set, real, lenet, reference)


def _run(loop):
    """All generations of a loop, and its page; notes in the record why it stopped."""
    try:
        _generations(loop)
    except BaseException as error:
        record = loop.run.table("run", "json")
        stopped = {"stopped": str(error) or type(error).__name__}
        with contextlib.suppress(UserError):  # a full disk: the first error tells
            storage.save_json({**storage.load_json(record), **stopped}, record)
        raise
    finally:
        report.announce(report.write(loop.run.folder, loop.run.w))


def _generations(loop):
    run, total = loop.run, loop.constants.generation_number
    measured = {row["generation"]: row["model"] for row in run.metrics()}
    for g in (INITIAL, *range(total)):
        sources.adopt(run, g, loop.made_from(g), measured.get(g, ""))
    _announce(loop, total)
    bar = tqdm(total=total, desc=loop.title, unit="generation", disable=None)
    for g in (INITIAL, *range(total)):
        _generation(loop, g)
        bar.update(g != INITIAL)
    bar.close()
    rows.drop_later(loop, total)
    if loop.stages_done == 0:
        print(f"{loop.title}: nothing to do, all {total} generations are complete")
    figures.draw_progress(loop)
    tables = ", ".join(run.table(kind).name for kind in ("metrics", "timings"))
    names = ", ".join(run.figure(kind).name for kind in figures.PROGRESS)
    print(f"{loop.title}: {tables}, {names} and the figures of each generation are in")
    print(f"  {storage.shown(run.folder)}")


def _generation(loop, g):
    """One generation, from what it trains on to its figures; what is there already is not made
    again."""
    data = functools.cache(lambda: loop.data(g))  # the training set, where it is asked for
    if g != INITIAL:
        stages.train_generation(loop, g, data)
        stages.sample_next(loop, g)
    stages.sample_evaluation(loop, g)
    stages.sample_strip(loop, g)
    rows.measure(loop, g, data)
    figures.draw(loop, g)
    report.write(loop.run.folder, loop.run.w)


def _announce(loop, total):
    """Says how much is to be made and how long that will take."""
    if missing := [g for g in range(total) if not loop.run.model(g).exists()]:
        first = len(loop.data(0).labels)
        more = loop.constants.N_with_w if getattr(loop.constants, "accumulate", False) else 0
        n_images = [first + g * more for g in missing]
        sampled = loop.run.evaluation(INITIAL)[0].exists()
        n_more = 0 if sampled else loop.constants.N_eval
        announce_work(loop.title, loop.constants, n_images, n_more)
