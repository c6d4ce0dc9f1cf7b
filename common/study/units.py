"""Many loops for one answer: what jacobian/study.py runs.

A unit of work is one loop with its spectra, in one process with one thread and in a folder of its
own, by the very scripts that users run; its numbers end in one small file, after which its models
and samples are deleted. Units do not wait for one another, so any scheduler may run them in any
order, and one that was stopped goes on where its scripts do.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
import site
import threading
import traceback
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import settings
from common.detect import streams
from common.loop import forecast, initial, loop
from common.machine import storage
from common.machine.errors import UserError, one_line
from common.run import provenance
from common.run.folder import Run
from common.seeds import INITIAL
from common.settings import ROOT
from common.spectrum import measure
from common.spectrum.checkpoint import N_TANGENT
from common.spectrum.posterior import N_DIRECTIONS
from common.study import report

PROTOCOL = ROOT / "jacobian" / "study" / "PROTOCOL.md"
LOG = "log.txt"


class Arm(NamedTuple):
    """A kind of loop: its scenario's folder, and the share of synthetic images it trains on."""

    scripts: str
    dose: float


ARMS = {
    "control": Arm("FullSynthetic/DDPM-MNIST", 0.0),
    "full": Arm("FullSynthetic/DDPM-MNIST", 1.0),
    "dose50": Arm("Fresh/MNIST-DDPM", 0.5),
    "dose25": Arm("Fresh/MNIST-DDPM", 0.25),
    "dose10": Arm("Fresh/MNIST-DDPM", 0.1),
}
CONTROL_SEEDS = 1000  # added to the seed of a control, whose initial model is another one's then


@dataclasses.dataclass(frozen=True)
class Unit:
    """One loop of the study, with the study's constants as far as they shape it."""

    arm: str
    seed: int
    name: str
    role: str
    base: str
    N_train: int
    generation_number: int
    n_anchors: int
    timesteps: tuple
    sample_timesteps: tuple
    overrides: tuple
    keep: bool
    output_dir: Path

    @property
    def path(self):
        """The file that is there when the unit is done."""
        return self.output_dir / self.name / f"{self.arm}_seed{self.seed}.npz"

    @property
    def home(self):
        """The folder of its run while that is needed."""
        return self.output_dir / self.name / "runs" / self.path.stem

    @property
    def run(self):
        folder = self.home / f"control_seed{self.seed}" if self.arm == "control" else self.home
        return Run(folder, 0)

    @property
    def n_models(self):
        return self.generation_number + 1

    def commands(self):
        """[(script, its words)], in the order in which they run."""
        arm, N = ARMS[self.arm], self.N_train
        scripts, n = ROOT / arm.scripts, round(arm.dose * N)
        common = ["--recipe", self.base, "--seed", str(self.seed)]
        home = str(self.home)
        if arm.scripts.startswith("Fresh"):
            initial = ["--N_with_w", str(n), "--N_real", str(N)]
            words = ["--N_with_w", str(n), "--N_real", str(N - n), "--N_initial", str(N)]
            words += ["--resample_real", "redraw"]
        else:
            initial = ["--N_with_w", str(N), "--N_real", str(N)]
            words = ["--N_next", str(N), "--control", str(self.arm == "control")]
        words += ["--generation_number", str(self.generation_number), "--save_dir", home]
        spectra = ["--run_dir", str(self.run.folder), "--n_anchors", str(self.n_anchors)]
        found = [
            (scripts / "initialmain.py", [*common, *initial, "--save_dirs", home, "--Wall", "0"]),
            (scripts / "main.py", [*common, *words]),
        ]
        for source, times in (("test", self.timesteps), ("samples", self.sample_timesteps)):
            measured = [*spectra, "--anchors_from", source, "--timesteps", *map(str, times)]
            found.append((ROOT / "jacobian" / "spectra.py", measured))
        return [(script, [*own, *self._overrides(script)]) for script, own in found]

    def _overrides(self, script):
        """The words of the overrides "name=value" of constants that the script has."""
        known = settings.names(script)
        return [f"--{word}" for word in self.overrides if word.split("=")[0] in known]


def planned(constants):
    """The Units of the study's constants, in the order in which they are to run."""
    if len(constants.loops) != len(constants.arms):
        raise UserError(f"loops = {constants.loops}: give as many numbers as there are arms")
    names = {field.name for field in dataclasses.fields(Unit)} & vars(constants).keys()
    given = {name: getattr(constants, name) for name in names}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    if strange := [arm for arm in constants.arms if arm not in ARMS]:
        raise UserError(f"arms: there is no {strange[0]}, but {', '.join(ARMS)}")
    units = [
        Unit(arm=arm, seed=constants.first_seed + CONTROL_SEEDS * (arm == "control") + i, **given)
        for arm, n in zip(constants.arms, constants.loops, strict=True)
        for i in range(n)
    ]
    known = {
        name for unit in units for script, _ in unit.commands() for name in settings.names(script)
    }
    for word in constants.overrides:
        if word.split("=")[0] not in known:
            raise UserError(f"overrides: no script has a constant {word.split('=')[0]}")
    number, of = map(int, constants.part.split("/"))
    return units[number - 1 :: of]


def main(constants):
    """What jacobian/study.py runs."""
    with one_line():
        if constants.report:
            _report(constants)
            return
        units = planned(constants)
        if constants.role == "test" and not PROTOCOL.exists():
            raise UserError(f"{PROTOCOL} is missing: the loops of a test are run after it")
        missing = [unit for unit in units if not storage.verify(unit.path)]
        n_models = sum(unit.n_models for unit in missing)
        print(
            f"study {constants.name}, {constants.role}: {len(units) - len(missing)} of "
            f"{len(units)} loops are there; {n_models} models to train and measure"
        )
        if constants.dry_run:
            _dry_run(missing)
            return
        failed = _finish(missing, constants)
        if failed:
            raise UserError(
                f"{len(failed)} of {len(missing)} loops failed; the same command tries them again"
            )
        folder = storage.shown(constants.output_dir / constants.name)
        print(f"all {len(units)} loops are there: {folder}")


def _report(constants):
    """Writes the answer from the files that are there."""
    script, words = planned(constants)[0].commands()[1]
    with contextlib.redirect_stdout(None):
        n_T = settings.of_script(script, words).n_T
    (t,) = measure.scaled([constants.primary_t], n_T)
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
            f"\na loop takes about {forecast.duration(seconds)} of one core of this machine, all "
            f"{len(units)} of them {forecast.duration(seconds * len(units))}"
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
        # So that every worker, one that comes later too, finds this package.
        client.register_worker_callbacks(functools.partial(site.addsitedir, str(ROOT)))
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
        try:
            if not storage.verify(unit.path):
                for script, words in unit.commands():
                    _call(script, words)
                storage.save_arrays(collected(unit), unit.path)
        except UserError as error:
            return unit, str(error)
        except Exception as error:  # a fault of this code: the log shows where
            traceback.print_exc()
            return unit, f"{type(error).__name__}: {error}; see {unit.home / LOG}"
    if not unit.keep:
        shutil.rmtree(unit.home, ignore_errors=True)
    return unit, None


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
    script, words = unit.commands()[1]
    with contextlib.redirect_stdout(None):
        constants = settings.of_script(script, words)
    times = len(unit.timesteps) + len(unit.sample_timesteps)
    n_jacobians = times * (unit.n_anchors + N_TANGENT * max(N_DIRECTIONS) / 784)
    return unit.n_models * (
        forecast.generation_seconds(constants, unit.N_train)
        + forecast.spectrum_seconds(constants, n_jacobians)
    )


def collected(unit):
    """What a unit leaves: {name: array}, each stream for each generation and anchor.

    streams (S,), directions (S,), generations (G,) with INITIAL first, values (G, S);
    anchor_streams (R,) and anchor_values (G, R, A), held_out_streams and held_out_values likewise;
    t (T,) and mean_log_eigenvalues (G, T, D); record: JSON of how and from what it was made.
    """
    found = streams.load(unit.run.folder, 0, first=INITIAL)
    arrays = measure.load(unit.run.table("spectra", "npz"))
    of_anchors, of_held_out = {}, {}
    for name, values in found.per_anchor.items():
        tangent = name.startswith(streams.TANGENT)
        (of_held_out if tangent else of_anchors)[name] = values.astype(np.float32)
    tiny = np.finfo(np.float64).tiny
    return {
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


def _record(unit, made):
    record = provenance.recorded(unit.run)
    samples = {
        str(g): storage.sha256(unit.run.evaluation(g)[0])
        for g in range(INITIAL, unit.generation_number)
    }
    return {
        "schema": report.SCHEMA,
        "study": unit.name,
        "role": unit.role,
        "arm": unit.arm,
        "dose": ARMS[unit.arm].dose,
        "control": unit.arm == "control",
        "seed": unit.seed,
        "protocol_sha256": storage.sha256(PROTOCOL) if PROTOCOL.exists() else None,
        "commit": record["commit"],
        "versions": record["versions"],
        "samples_sha256": samples,
        "provenance": provenance.as_json(made),
    }
