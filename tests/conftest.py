"""What tests need that not every machine has: real MNIST, and a CUDA GPU."""

import os
from pathlib import Path

# Tests run in as many processes as there are cores to use; threads on top would only get in each
# other's way. Set before torch is imported, and inherited by the scripts that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import pytest
import tiny
import torch
from filelock import FileLock

MNIST_FILES = [
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


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


@pytest.fixture(scope="session")
def initial(tmp_path_factory, worker_id):
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
