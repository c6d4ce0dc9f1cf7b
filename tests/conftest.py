"""What tests need that not every machine has, real MNIST and a CUDA GPU, and what they share."""

import hashlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

# Tests run in as many processes as there are cores to use; threads on top would only get in each
# other's way. Set before torch is imported, and inherited by the scripts that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import joblib
import numpy as np
import pytest
import tiny
import torch
from filelock import FileLock
from hypothesis import settings
from matplotlib.figure import Figure

from common.loop import figures, forecast, loop
from common.run import plots
from common.spectrum import measure

MNIST_FILES = [
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


# The same examples in every run: what fails once fails again.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_xdist_auto_num_workers(config):
    """All tests run in as many processes as there are cores to use; some of them, named, in one."""
    everything = config.args_source is config.ArgsSource.TESTPATHS
    return joblib.cpu_count() if everything else 0


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture
def mnist_root():
    """The folder (Path) whose MNIST/raw holds real MNIST; without it the test is skipped."""
    if not os.environ.get("MNIST_ROOT"):
        pytest.skip("needs real MNIST: the environment variable MNIST_ROOT is not set")
    root = Path(os.environ["MNIST_ROOT"])
    missing = [name for name in MNIST_FILES if not (root / "MNIST" / "raw" / name).exists()]
    if missing:
        pytest.skip(f"needs real MNIST: MNIST_ROOT lacks MNIST/raw/{missing[0]}")
    return root


@pytest.fixture(autouse=True)
def same_draws():
    """What a test draws without a seed of its own does not depend on the tests before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session", autouse=True)
def sketches():
    """Loops in this process draw sketches: to lay out and write their figures would take longer
    than all else in a tiny loop. Tests of figures call `plots`, and scripts draw the real ones."""
    names = ("fid", "losses", "prdc", "sample_grid", "strips", "together", "tsne")
    stand_ins = SimpleNamespace(**{name: _sketch(getattr(plots, name)) for name in names})
    with pytest.MonkeyPatch.context() as patch:
        for module in (figures, loop):
            patch.setattr(module, "plots", stand_ins)
        yield


def _sketch(drawing):
    """A function with what `drawing` takes, whose picture is a hash of that."""

    def draw(*given):
        shades = np.frombuffer(_digest(drawing.__name__, given), np.uint8)
        figure = Figure(figsize=(0.2, 0.2))
        figure.figimage(shades.reshape(4, 8), vmin=0, vmax=255)
        return figure

    return draw


@pytest.fixture(scope="session", autouse=True)
def hurried():
    """In this process nobody takes the power away, so files need not have reached the disk, and an
    estimate of time is of one trial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(forecast, "_seconds", _seconds_of_one)
        yield


def _seconds_of_one(work, repeats=1):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@pytest.fixture(scope="session", autouse=True)
def remembered(hurried):
    """What was measured of a model in this process is not measured again: the folders of many tests
    hold the same models."""
    known, whole = {}, measure.measure_checkpoint

    def once(ddpm, anchors, held_out, directions, times):
        images = [[*part[:3], part.noise(times[0])] for part in (anchors, held_out)]
        key = _digest(ddpm.n_T, {**ddpm.state_dict()}, ddpm.sqrtmab, images, directions, times)
        if key not in known:
            known[key] = whole(ddpm, anchors, held_out, directions, times)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure_checkpoint", once)
        yield


def _digest(*values):
    text = json.dumps(values, default=lambda value: value.tolist())
    return hashlib.sha256(text.encode()).digest()


@pytest.fixture(scope="session")
def initial(sketches, tmp_path_factory, worker_id):
    """A folder with the initial data of a tiny loop: made once, to be read or copied."""
    return made_once("initial", tiny.initialmain, tmp_path_factory, worker_id)


@pytest.fixture(scope="session")
def finished(initial, tmp_path_factory, worker_id):
    """The same with two finished generations."""

    def finish(folder):
        tiny.main(tiny.copied(initial, folder))

    return made_once("finished", finish, tmp_path_factory, worker_id)


def made_once(name, make, tmp_path_factory, worker_id):
    """The folder that make(folder) fills, in the first of the processes that needs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            make(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return folder
