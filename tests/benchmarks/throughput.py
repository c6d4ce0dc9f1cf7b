"""How many loops an hour: a study's loops side by side against one after another.

    python tests/benchmarks/throughput.py

Short loops of the study (the laptop recipe with 200 training steps, one generation, 10 anchors):
first the scripts by hand, which use all cores, loop by loop; then the same loops by study.py, one
thread each; then by study.py on a local Dask cluster with a worker per core, which must leave the
same numbers.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from distributed import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
CORES = os.cpu_count()
SCRIPT = ROOT / "jacobian" / "study.py"
SHORT = {
    "role": "pilot",
    "arms": "full",
    "loops": CORES,
    "first_seed": 1,
    "generation_number": 1,
    "n_anchors": 10,
    "timesteps": 50,
    "overrides": ["n_step=200"],
}


def study(folder, **changes):
    """Runs study.py with results in a folder; returns what it prints."""
    words = []
    for name, value in {**SHORT, "output_dir": folder, **changes}.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    command = [sys.executable, SCRIPT, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def by_hand(commands):
    """Runs commands one after another, with a thread per core."""
    threads = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    for _, script, *words in commands:
        command = [sys.executable, ROOT / script, *words]
        subprocess.run(command, check=True, capture_output=True, env=threads)


def on_dask(folder):
    with LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as cluster:
        study(folder, scheduler=cluster.scheduler_address)


def main():
    folders = [Path(tempfile.mkdtemp()) for _ in range(3)]
    lines = study(folders[0], dry_run=True).splitlines()  # what study.py would run
    commands = [line.split() for line in lines if line.startswith("  python ")]
    ways = {
        "scripts, a loop after the other, a thread per core": lambda _: by_hand(commands),
        "study.py, a loop per core": lambda folder: study(folder, n_jobs=CORES),
        "study.py on a local Dask cluster, a worker per core": on_dask,
    }
    print(f"{platform.machine()}, {CORES} cores, torch {torch.__version__}; {CORES} loops\n")
    print("| way | seconds | times the first |\n| --- | --- | --- |")
    seconds = []
    for folder, (name, way) in zip(folders, ways.items(), strict=True):
        start = time.perf_counter()
        way(folder)
        seconds.append(time.perf_counter() - start)
        print(f"| {name} | {seconds[-1]:.0f} | {seconds[0] / seconds[-1]:.2f} |", flush=True)
    ours, dask = (sorted(folder.rglob("*.npz")) for folder in folders[1:])
    assert len(ours) == len(dask) == CORES
    for pair in zip(ours, dask, strict=True):
        one, other = (np.load(path)["values"] for path in pair)
        np.testing.assert_array_equal(one, other)


if __name__ == "__main__":
    main()
