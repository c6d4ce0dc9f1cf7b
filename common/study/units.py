"""Many loops for one answer: what jacobian/study.py runs.

A unit of work is one loop with its spectra, in one process with one thread and in a folder of its
own, by the very scripts that users run; its numbers end in one small file, after which its models
and samples are deleted. Units do not wait for one another, so any scheduler may run them in any
order, and one that was stopped goes on where its scripts do.
"""

import contextlib
import functools
import shutil
import site
import threading
import traceback

import joblib
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import settings
from common.data import fingerprint, load_real
from common.detect import streams
from common.loop import forecast, initial, loop, scenarios, stages
from common.machine import storage
from common.machine.errors import UserError, one_line
from common.machine.progress import duration
from common.run.folder import Run
from common.seeds import INITIAL
from common.settings import ROOT
from common.spectrum import measure
from common.spectrum.checkpoint import N_TANGENT
from common.spectrum.posterior import N_DIRECTIONS
from common.study import files, report
from common.study.arms import ARMS, planned

LOG = "log.txt"


def main(constants):
    """What jacobian/study.py runs."""
    with one_line():
        if constants.report:
            _report(constants)
            return
        units = planned(constants)
        if constants.role == "test" and not files.PROTOCOL.exists():
            raise UserError(f"{files.PROTOCOL} is missing: the loops of a test are run after it")
        missing = [unit for unit in units if not storage.verify(unit.path)]
        n_models = sum(unit.n_models for unit in missing)
        print(
            f"study {constants.name}, {constants.role}: {len(units) - len(missing)} of "
            f"{len(units)} loops are there; {n_models} models to train and measure"
        )
        if constants.dry_run:
            _dry_run(missing)
            return
        if constants.role == "test":
            _note_plan(constants)
        for unit in units:
            if unit not in missing:
                _tidy(unit)
        failed = _finish(missing, constants)
        if failed:
            raise UserError(
                f"{len(failed)} of {len(missing)} loops failed; the same command tries them again"
            )
        folder = storage.shown(constants.output_dir / constants.name)
        print(f"all {len(units)} loops are there: {folder}")


def _note_plan(constants):
    """Keeps how many loops of each arm there are to be, which the report needs, in the study's
    folder. Given smaller a number stays: it is of a part."""
    path = constants.output_dir / constants.name / files.PLAN
    before = storage.load_json(path) if path.exists() else {}
    plan = dict(before)
    for arm, n in zip(constants.arms, constants.loops, strict=True):
        if ARMS[arm].judged and n > 0:
            plan[arm] = max(n, plan.get(arm, 0))
    if plan != before:
        storage.save_json(plan, path)


def _report(constants):
    """Writes the answer from the files that are there."""
    (t,) = measure.scaled([constants.primary_t], _of_loop(planned(constants)[0]).n_T)
    for path in report.write(
        constants.output_dir / constants.name,
        streams.name_of(constants.primary, t),
        constants.alpha,
        constants.generation_number,
        rival=streams.name_of("denoising_loss", t),
        role=constants.role,
    ):
        print(storage.shown(path))


def _dry_run(units):
    """Prints each loop with its commands' constants, and what its models will take here."""
    for unit in units:
        print(f"\n{unit.path.stem}")
        for script, words in unit.commands():
            print(f"  python {script.relative_to(ROOT).as_posix()} {' '.join(words)}")
    if units:
        with _one_thread():
            seconds = _seconds(units[0])
        print(
            f"\na loop takes about {duration(seconds)} of one core of this machine, all "
            f"{len(units)} of them {duration(seconds * len(units))}"
        )


def _finish(units, constants):
    """Runs the units, with a line for each when it ends; returns those that failed."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(units, stop), daemon=True)
    watcher.start()
    try:
        with _scheduler(constants):
            jobs = (joblib.delayed(attempt)(unit) for unit in units)
            found = joblib.Parallel(return_as="generator_unordered")(jobs)
            failed = []
            for n, (unit, reason) in enumerate(found, 1):
                said = f"failed: {reason}" if reason else "is done"
                tqdm.write(f"{n} of {len(units)} loops: {unit.path.stem} {said}")
                failed += [unit] if reason else []
            return failed
    finally:
        stop.set()
        watcher.join()


@contextlib.contextmanager
def _scheduler(constants):
    """Where joblib's jobs run: on this machine's cores, or on the Dask cluster that is named."""
    if not constants.scheduler:
        with joblib.parallel_config("loky", n_jobs=constants.n_jobs, inner_max_num_threads=1):
            yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--scheduler needs Dask: pip install dask distributed") from None
    with Client(constants.scheduler) as client, joblib.parallel_config("dask", client=client):
        # So that the scheduler and every worker, one that comes later too, find this package.
        find = functools.partial(site.addsitedir, str(ROOT))
        client.run_on_scheduler(find)
        client.register_worker_callbacks(find)
        yield


def _watch(units, stop):
    """A bar over the models of all units, by the files that are there, until `stop` is set."""
    total = sum(unit.n_models for unit in units)
    with tqdm(total=total, desc="study", unit="model", disable=None) as bar:
        begun = None
        while True:
            done = sum(map(_models_done, units))
            begun = done if begun is None else begun
            bar.initial, bar.n = begun, done
            bar.refresh()
            if stop.wait(2):
                return


def _models_done(unit):
    if unit.path.exists():
        return unit.n_models
    return sum(unit.run.model(g).exists() for g in range(INITIAL, unit.generation_number))


def attempt(unit):
    """Finishes one unit; returns (unit, None), or (unit, why not): no loop stops the others."""
    with _one_thread(), _log(unit):
        if unit.keep:
            unit.passing.unlink(missing_ok=True)
        else:
            unit.passing.touch()
        try:
            if not storage.verify(unit.path):
                _share_feature_network(unit)
                for script, words in unit.commands():
                    _call(script, words)
                storage.save_arrays(files.collected(unit), unit.path)
        except UserError as error:
            return unit, str(error)
        except Exception as error:  # a fault of this code: the log shows where
            traceback.print_exc()
            return unit, f"{type(error).__name__}: {error}; see {unit.home / LOG}"
    _tidy(unit)
    return unit, None


def _tidy(unit):
    """Removes the run of a unit that is done, unless it is to be kept."""
    if unit.passing.exists():
        shutil.rmtree(unit.home, ignore_errors=True)
        unit.passing.unlink(missing_ok=True)


def _share_feature_network(unit):
    """Gives the unit the study's feature network, trained by the first that needs it: the one that
    another processor trains has other bits, and FIDs by the two cannot be compared."""
    folder, constants = unit.path.parent, settings.of_script(*unit.commands()[0])
    with storage.lock(folder / "prmodel.lock", wait=True):
        real = load_real(constants.dataset)
        stages.train_feature_network(Run(folder, 0), constants, real, fingerprint(real))
    scenarios.share(["prmodel.pth"], folder, unit.home)


@contextlib.contextmanager
def _one_thread():
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@contextlib.contextmanager
def _log(unit):
    """What the scripts print goes to a file beside the run."""
    unit.home.mkdir(parents=True, exist_ok=True)
    path = unit.home / LOG
    with (
        open(path, "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def _call(script, words):
    """Runs a script of this project in this process: it ends when the worker does."""
    main = {"initialmain": initial.main, "main": loop.main, "spectra": measure.main}[script.stem]
    try:
        main(settings.of_script(script, words))
    except SystemExit as error:
        reason = error if isinstance(error.code, str) else f"exit status {error}, see {LOG}"
        raise UserError(f"{script.name} {' '.join(words)}: {reason}") from error


def _seconds(unit):
    """About how long a unit takes, by a trial of a few steps and a Jacobian."""
    constants = _of_loop(unit)
    times = len(unit.timesteps) + len(unit.sample_timesteps)
    n_jacobians = times * (unit.n_anchors + N_TANGENT * max(N_DIRECTIONS) / 784)
    return unit.n_models * (
        forecast.generation_seconds(constants, unit.N_train)
        + forecast.spectrum_seconds(constants, n_jacobians)
    )


def _of_loop(unit):
    """The constants of a unit's main.py."""
    with contextlib.redirect_stdout(None):
        return settings.of_script(*unit.commands()[1])
